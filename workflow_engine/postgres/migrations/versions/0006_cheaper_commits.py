"""A commit writes the rows of pure nodes, too, a start checks its way in, and a function checks the rows."""

from __future__ import annotations

from alembic import context, op

from workflow_engine.postgres import functions

revision = "0006"
down_revision = "0005"

NAMES = (
    "checks/check_execution_v1",
    "checks/check_node_execution_v1",
    "follow_commit_v1",
    "commit_node_v2",
    "starts/start_executions_v1",
)

# Revision 0002 makes them with this text. In older tables they do not call, or read, what is new here.
REPLACED = ("starts/start_execution_v1", "end_execution_v1", "commit_by_hand_v1")

# Each was a constraint of its own. The function in their place has the same rules, by the same names.
RULES = {
    "executions": (
        "check_execution_v1(status, seq, nodes_executed, started_at, completed_at, error)",
        ("status", "counts", "finished", "error", "started"),
    ),
    "node_executions": (
        "check_node_execution_v1("
        "status, seq, visit, attempt, superseded_by, superseded_for, completed_at, error)",
        ("status", "counts", "superseded", "superseded_for", "error", "completed"),
    ),
}


def upgrade() -> None:
    schema = context.config.attributes["schema"]
    connection = op.get_bind().execution_options(no_parameters=True)
    for name in NAMES:
        connection.exec_driver_sql(functions.definition(name, schema))
    for name in REPLACED:
        statement = functions.definition(name, schema)
        connection.exec_driver_sql(statement.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
    for table, (check, former) in RULES.items():
        # All rows have kept the former rules. `validate_checks` reads them, without keeping writers waiting.
        changes = [f"DROP CONSTRAINT {table}_{name}" for name in former]
        changes.append(f'ADD CONSTRAINT {table}_rules CHECK ("{schema}".{check}) NOT VALID')
        connection.exec_driver_sql(f'ALTER TABLE "{schema}".{table} {", ".join(changes)}')
