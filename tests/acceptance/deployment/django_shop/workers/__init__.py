"""The project's own package of this name."""
