"""Validation: a definition is checked whole before it is stored, and every problem is reported at once.

- `workflow_checks`: the parts put together; a broken node never hides the problems of another
- `edge_checks`, `node_checks`: the parts; `retry_checks`: a node's retries
- `limit_checks`: the keys of limits; `failure_checks`: what the end of a failed execution starts
- `concurrency_checks`: what is wrong only where nodes run at the same time
- `body_checks`: the nodes inside a node, and the names around them
- `unsupported`: features of the format that this release does not have yet
- `json_schema`: the format for editors
"""

from workflow_engine.validation.workflow_checks import (
    MAX_EDGES,
    MAX_NODES,
    problems_of,
    validate,
    validate_text,
)

__all__ = ["MAX_EDGES", "MAX_NODES", "problems_of", "validate", "validate_text"]
