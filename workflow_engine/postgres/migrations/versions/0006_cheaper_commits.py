"""A commit takes the rows of pure nodes along in one document, and touches the execution once."""

from __future__ import annotations

from alembic import context, op

from workflow_engine.postgres import functions

revision = "0006"
down_revision = "0005"

NAMES = ("follow_commit_v1", "commit_node_v2")

# Revision 0002 makes them with this text. In older tables they do not call, or read, what is new here.
REPLACED = ("end_execution_v1", "commit_by_hand_v1")


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    connection = op.get_bind().execution_options(no_parameters=True)
    for name in NAMES:
        connection.exec_driver_sql(functions.definition(name, schema))
    for name in REPLACED:
        statement = functions.definition(name, schema)
        connection.exec_driver_sql(statement.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
