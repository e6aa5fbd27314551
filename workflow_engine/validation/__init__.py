"""Validation: a definition is checked whole before it is stored, and every problem is told at once.

`workflow_checks` puts the parts together; a broken node never hides the problems of another.
"""

from workflow_engine.validation.workflow_checks import (
    MAX_EDGES,
    MAX_NODES,
    problems_of,
    validate,
    validate_text,
)

__all__ = ["MAX_EDGES", "MAX_NODES", "problems_of", "validate", "validate_text"]
