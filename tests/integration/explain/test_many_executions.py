"""What stands still in an installation is grouped by its reason, in a bounded time, and nothing changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import redis

from support.reported_workers import ReportedWorkers
from support.workflows import line
from workflow_engine import Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.control.explain import Code

Sql = Callable[..., list[tuple[Any, ...]]]
ROWS = """
SELECT md5(string_agg(e::text, '' ORDER BY id)) FROM executions e
UNION ALL SELECT md5(string_agg(w::text, '' ORDER BY id)) FROM execution_wait_states w
UNION ALL SELECT md5(string_agg(v::text, '' ORDER BY id)) FROM execution_events v
"""


def one() -> int:
    return 1


def waiting_for(client: WorkflowClient, *events: str) -> list[str]:
    """Start an execution for each of these events, which waits for it once its messages are served."""
    for event in events:
        flow = WorkflowBuilder(f"until-{event}")
        flow.trigger("placed") >> flow.wait_events("hear", [event], correlation_id="order")
        client.deploy(flow.build())
    return [client.start(f"until-{event}").id for event in events]


def test_open_executions_are_grouped_by_code_with_what_they_have_in_common(
    client: WorkflowClient, fleet: ReportedWorkers
) -> None:
    waiting = waiting_for(client, "paid", "paid", "shipped")
    fleet.serve()
    client.deploy(line(one, queue="reports"))
    queued = [client.start("line").id for _ in range(7)]
    client.control.pause(queued[0], actor="ada")
    fleet.live()

    overview = client.explain_all()

    assert {group.code: group.count for group in overview.groups} == {
        Code.NO_WORKER: 6,
        Code.WAITING_EVENTS: 3,
        Code.PAUSED: 1,
    }
    without_worker, waits, paused = overview.groups
    assert list(without_worker.oldest) == queued[1:6]
    assert dict(without_worker.subjects) == {"reports": 6}
    assert list(waits.oldest) == waiting
    assert dict(waits.subjects) == {"paid": 2, "shipped": 1}
    assert paused.example is not None
    assert paused.example.command == f"workflow-engine resume {queued[0]}"
    assert (overview.examined, overview.is_complete, list(overview.unasked)) == (10, True, [])


def test_only_the_oldest_executions_are_examined(client: WorkflowClient, fleet: ReportedWorkers) -> None:
    client.deploy(line(one))
    ids = [client.start("line").id for _ in range(5)]
    client.control.cancel(ids[0])

    overview = client.explain_all(limit=3)

    assert (overview.examined, overview.is_complete) == (3, False)
    assert list(overview.groups[0].oldest) == ids[1:4]


def test_a_thousand_executions_are_explained_in_a_bounded_time(
    client: WorkflowClient, fleet: ReportedWorkers, sql: Sql
) -> None:
    """What it takes is in the docs; the bound is one that a busy machine keeps."""
    client.deploy(line(one))
    first = client.start("line").id
    fleet.live()
    sql("SET session_replication_role = 'replica'")
    columns = [
        row[0]
        for row in sql(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'executions' "
            "AND table_schema = 'public' AND column_name <> 'id'"
        )
    ]
    names = ", ".join(columns)
    sql(
        f"INSERT INTO executions (id, {names}) SELECT gen_random_uuid(), {names} "
        "FROM executions CROSS JOIN generate_series(1, 1500)"
    )
    sql("SET session_replication_role = 'origin'")
    client.explain_all()

    began = time.monotonic()
    overview = client.explain_all()
    all_took = time.monotonic() - began
    began = time.monotonic()
    client.explain(first)
    one_took = time.monotonic() - began

    assert overview.examined == 1000
    assert not overview.is_complete
    assert all_took < 5
    assert one_took < 2


def test_explaining_changes_nothing(
    client: WorkflowClient, fleet: ReportedWorkers, sql: Sql, redis_client: redis.Redis, settings: Settings
) -> None:
    waiting_for(client, "paid")
    fleet.serve()
    client.send_event("elsewhere", "paid")
    client.deploy(line(one))
    ids = [client.start("line").id for _ in range(3)]
    client.control.pause(ids[0])
    fleet.live()

    def everything() -> Any:
        keys = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
        return sql(ROWS), keys

    before = everything()
    for each in client.list():
        WorkflowClient(settings).explain(each.id)
    client.explain_all()

    assert everything() == before
