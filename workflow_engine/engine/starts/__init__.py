"""Starts: what a caller gives is checked against the deployed workflow, then written, then published.

- `given`: what a caller gives, as JSON and well-formed whatever is deployed
- `starting`: one start, and many at once
"""
