"""Executions as people see them, on a terminal and on a page.

- `execution_view`: the state of each node, also as JSON
- `graph_layout`: the place of each node in a drawing made of lines
- `graph_drawing`: the graph of an execution or a workflow on a page, as geometry
- `phrases`: times, amounts, waits and foreign text
"""
