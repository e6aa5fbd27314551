"""Executions as text.

- `execution_drawing`: the graph of an execution, and what each node did
- `node_logs`: what nodes have logged
"""
