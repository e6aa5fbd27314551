"""Executions as parts of a page; geometry and text only, so that templates decide how it looks.

- `timeline`: attempts and waits as bars
- `json_tree`: a JSON value that unfolds
"""
