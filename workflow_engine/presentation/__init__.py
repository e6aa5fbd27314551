"""Executions as people see them, on a terminal and on a page.

- `execution_view`: the state of each node, also as JSON
- `graph_layout`: the place of each node in a drawing made of lines
- `phrases`: times, amounts, waits and foreign text
"""
