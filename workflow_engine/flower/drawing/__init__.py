"""Executions as parts of a page; geometry and text only, so that templates decide how it looks.

- `graph`: the graph of an execution or a workflow, one node below the other
- `timeline`: attempts and waits as bars
- `json_tree`: a JSON value that unfolds
"""
