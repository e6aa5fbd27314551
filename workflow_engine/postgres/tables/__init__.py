"""The tables, as `migrations` makes them; a test compares the two.

`executions` has the present state of an execution, `node_executions` its journal: what it did, in the order
of the commits. A hop appends one row to the journal and changes one row of `executions`. No index covers a
column that every hop changes, so that the change stays within the page.

- `workflows`: those of workflows, their versions and their triggers
- `executions`: those of executions, their journal, and what they wait for
- `limits`: those of the slots of limits
- `columns`: what these have in common
"""

from __future__ import annotations

from sqlalchemy import MetaData

from workflow_engine.postgres.tables.executions import add_executions
from workflow_engine.postgres.tables.limits import add_limits
from workflow_engine.postgres.tables.workflows import add_workflows


def tables(schema: str) -> MetaData:
    """Return the tables in the given schema."""
    metadata = MetaData(schema=schema)
    add_workflows(metadata)
    add_executions(metadata)
    add_limits(metadata)
    return metadata
