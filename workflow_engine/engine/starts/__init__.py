"""Starts: what a caller gives is checked against the deployed workflow, then written, then published.

- `given`: what a caller gives, as well-formed JSON; nothing deployed is looked at
- `starting`: one start, and many at once
"""
