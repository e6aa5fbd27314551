"""The migrations, from the first to the last."""
