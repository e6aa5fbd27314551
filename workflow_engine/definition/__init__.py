"""What a workflow is: its format, its graph, and the ways to write one.

- `workflow`: the format as immutable objects
- `graph`: which node follows which, where an execution can start and end
- `body`: nodes inside a node, as a workflow of their own
- `text`: reading YAML and JSON, with a line for each problem
- `builder`: writing one in Python
- `built_nodes`: its nodes, between which `>>` draws edges
- `problems`: pydantic's errors as sentences with a place
"""
