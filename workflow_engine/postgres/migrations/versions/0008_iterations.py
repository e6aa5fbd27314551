"""A node that repeats has one row that waits, and the end of a restarted child has the next one restarted."""

from __future__ import annotations

from alembic import context, op

from workflow_engine.postgres import functions

revision = "0008"
down_revision = "0006"

NEW = ("children/commit_iteration_v1",)
# Revision 0002 makes them with this text. In tables from before the first release they have an older one.
REPLACED = ("children/go_on_with_children_v1", "children/child_reopened_v1", "move_execution_v1")


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    connection = op.get_bind().execution_options(no_parameters=True)
    for name in (*NEW, *REPLACED):
        statement = functions.definition(name, schema)
        connection.exec_driver_sql(statement.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
