"""The functions of the first release."""

from __future__ import annotations

from alembic import context, op

from workflow_engine.postgres import functions

revision = "0002"
down_revision = "0001"

NAMES = (
    "context_at_rest_v1",
    "waits/request_wake_v1",
    "waits/take_wake_v1",
    "queues/begin_queue_time_v1",
    "queues/restart_queue_time_v1",
    "limits/slot_room_v1",
    "limits/limits_left_v1",
    "limits/lock_limits_v1",
    "limits/stand_in_line_v1",
    "limits/take_slots_v1",
    "limits/grant_slots_v1",
    "limits/free_slots_v1",
    "limits/look_at_limits_v1",
    "pause_at_breakpoint_v1",
    "starts/start_execution_v1",
    "children/go_on_with_children_v1",
    "children/open_children_v1",
    "children/child_reopened_v1",
    "children/outstanding_follow_ups_v1",
    "end_execution_v1",
    "children/tend_children_v1",
    "load_snapshot_v1",
    "missed_commits_v1",
    "commit_node_v1",
    "move_execution_v1",
    "commit_by_hand_v1",
    "amend_journal_v1",
)


def upgrade() -> None:
    # Unchanged: a colon or a percent sign in a file is not a parameter.
    connection = op.get_bind().execution_options(no_parameters=True)
    for name in NAMES:
        connection.exec_driver_sql(functions.definition(name, context.config.attributes["schema"]))
