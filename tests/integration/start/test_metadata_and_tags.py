"""What a start notes about its execution is shown, and finds it again among many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.broker import Workers
from support.command_line import run, run_json
from support.workflows import line
from workflow_engine import InvalidValue, Operation, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.annotations import LARGEST_METADATA
from workflow_engine.maintenance.schedules import Schedules

Sql = Callable[..., list[tuple[Any, ...]]]


def done() -> int:
    return 1


def fails() -> None:
    raise ValueError("the card was declined by the bank")


@pytest.fixture
def flow(client: WorkflowClient) -> str:
    client.deploy(line(done, id="flow"))
    return "flow"


def test_metadata_and_tags_are_kept_as_given_and_filter_lists(client: WorkflowClient, flow: str) -> None:
    notes = {"order": 7, "customer": {"id": "c-1", "plan": "pro"}, "lines": [1, 2]}
    first = client.start(flow, metadata=notes, tags=["vip", "eu", "vip"]).id
    second = client.start(flow, metadata={"order": "7"}, tags=["vip"]).id
    plain = client.start(flow).id

    shown = client.get(first)
    assert (shown.metadata, shown.tags) == (notes, ("vip", "eu"))
    assert (client.get(plain).metadata, client.get(plain).tags) == ({}, ())

    def found(**filters: Any) -> list[str]:
        listed = [each.id for each in client.list(**filters)]
        assert client.control.candidates(Operation.CANCEL, **filters) == sorted(listed)
        return listed

    assert found(where={"metadata.order": 7}) == [first]
    assert found(where={"metadata.order": "7"}) == [second]
    assert found(where={"metadata.customer.id": "c-1", "metadata.customer.plan": "pro"}) == [first]
    assert found(where={"metadata.customer.id": "c-1", "metadata.order": 8}) == []
    assert found(where={"metadata.lines": [2]}) == [first], "one of its elements"
    assert found(tags=["vip"]) == [second, first]
    assert found(tags=["vip", "eu"]) == [first]
    assert found(tags=["vip"], workflow_id="another") == []
    assert found(tags=["vip"], statuses=["COMPLETED"]) == []
    assert [each.id for each in client.list(tags=["vip"], before=second)] == [first]
    assert [each.id for each in client.list(tags=["vip"], limit=1)] == [second]


def test_nodes_see_nothing_of_the_metadata_of_a_start(
    client: WorkflowClient, workers: Workers, flow: str
) -> None:
    execution = client.start(flow, metadata={"order": 7}).id
    workers.drain()

    assert "order" not in client.context(execution).metadata


def test_equal_starts_are_compared_without_metadata_and_the_first_ones_stay(
    client: WorkflowClient, flow: str
) -> None:
    first = client.start(flow, {"a": 1}, idempotency_key="key", metadata={"order": 7}, tags=["vip"])
    again = client.start(flow, {"a": 1}, idempotency_key="key", metadata={"order": 8})

    assert (again.id, again.is_new) == (first.id, False)
    assert (client.get(first.id).metadata, client.get(first.id).tags) == ({"order": 7}, ("vip",))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metadata": {f"k{n}": n for n in range(17)}}, r"metadata: it has 17 keys, and at most 16"),
        ({"metadata": {"note": "x" * LARGEST_METADATA}}, r"metadata: 4,\d+ bytes .* than the 4,096 allowed"),
        ({"metadata": {"a.b": 1}}, r"metadata: the key 'a.b' .*rename it"),
        ({"metadata": {"a": {1}}}, r"metadata.a: "),
        ({"metadata": [1]}, r"metadata: it is an object"),
        ({"tags": "vip"}, r"tags: it is a list of tags; write \['vip'\]"),
        ({"tags": [""]}, r"tags: the tag '' is not"),
        ({"tags": [" vip"]}, r"tags: the tag ' vip' is not"),
        ({"tags": [7]}, r"tags: the tag 7 is not"),
        ({"tags": [{"vip": True}]}, r"tags: the tag \{'vip': True\} is not"),
        ({"tags": ["x" * 101]}, r"tags: the tag "),
        ({"tags": ["a\0"]}, r"tags: "),
        ({"tags": [str(n) for n in range(17)]}, r"tags: there are 17 tags, and at most 16"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_reason_and_starts_nothing(
    client: WorkflowClient, flow: str, given: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        client.start(flow, **given)
    assert client.list() == []


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"where": {"order": 7}}, r"where: 'order' is not a path into the metadata"),
        ({"where": {"metadata": 7}}, r"where: 'metadata' is not a path"),
        ({"where": {"metadata.a": 7, "metadata.a.b": 1}}, r"where: .* exclude each other"),
        ({"where": {"metadata.a.b": 7, "metadata.a": 1}}, r"where: .* exclude each other"),
        ({"tags": "vip"}, r"tags: it is a list"),
        ({"since": datetime(2026, 1, 1)}, r"since: .* names no time zone"),
        ({"text": " "}, r"text: it has no text"),
        ({"text": "a\0"}, r"text"),
    ],
)
def test_what_cannot_be_filtered_by_is_refused(
    client: WorkflowClient, flow: str, filters: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        client.list(**filters)


def test_lists_are_filtered_by_time_and_by_words_of_the_error_key_tag_or_id(
    client: WorkflowClient, workers: Workers, sql: Sql, flow: str
) -> None:
    client.deploy(line(fails, id="failing"))
    failed = client.start("failing", tags=["declined-today"], idempotency_key="order-8").id
    workers.drain()
    old, new = client.start(flow).id, client.start(flow, idempotency_key="order-7").id
    now = datetime.now(UTC)
    sql("UPDATE executions SET created_at = created_at - interval '10 minutes' WHERE id = %s", old)

    def found(**filters: Any) -> list[str]:
        return [each.id for each in client.list(**filters)]

    assert found(text="declined CARD") == [failed]
    assert found(text="declined cash") == []
    assert found(text="order-7") == [new]
    assert found(text="declined-today") == [failed]
    assert found(text=old) == [old]
    assert found(text=new[:18]) == [new] if new[:18] != old[:18] else True
    assert failed in found(text=failed[:8])
    assert found(since=now - timedelta(minutes=5)) == [new, failed]
    assert found(until=now - timedelta(minutes=5)) == [old]
    assert found(since=now - timedelta(hours=1), until=now - timedelta(minutes=5), workflow_id=flow) == [old]
    assert client.control.candidates(Operation.RETRY, text="declined") == [failed]


def test_a_schedule_gives_metadata_and_tags_to_the_executions_that_it_starts(
    client: WorkflowClient, engine: Engine, sql: Sql
) -> None:
    flow = WorkflowBuilder("nightly")
    config = {"cron": "0 3 * * *", "metadata": {"by": "night"}, "tags": ["batch"]}
    trigger = flow.trigger("each", sub_type="scheduler", config=config)
    trigger >> flow.function("work", expression="{{ 1 }}")
    client.deploy(flow.build())
    sql("UPDATE triggers SET next_due = now()")

    def start(workflow: str, node: str, data: Any, key: str, queue: str, **notes: Any) -> None:
        client.start(workflow, data, trigger=node, idempotency_key=key, queue=queue, **notes)

    assert Schedules(engine.triggers, grace=60).fire_due(start) == 1
    (execution,) = client.list(tags=["batch"], where={"metadata.by": "night"})
    assert execution.workflow_id == "nightly"


# -- on the command line -------------------------------------------------------------------------------------


def test_the_command_line_notes_shows_and_filters(
    client: WorkflowClient, flow: str, commands_use_the_servers: None
) -> None:
    arguments = [
        "--metadata",
        "order=7",
        "--metadata",
        "customer=Ada Lovelace",
        "--tag",
        "vip",
        "--tag",
        "eu",
    ]
    started = run_json("start", flow, *arguments)["id"]
    client.start(flow)

    shown = run("show", started).output
    assert 'metadata   {"customer": "Ada Lovelace", "order": 7}' in shown
    assert "tags       vip, eu" in shown

    def listed(*arguments: str) -> list[str]:
        return [each["id"] for each in run_json("list", *arguments)["executions"]]

    assert listed("--where", "metadata.order=7", "--tag", "vip") == [started]
    assert listed("--where", "metadata.customer=Ada Lovelace") == [started]
    assert listed("--where", "metadata.order=8") == []
    assert listed("--since", "1h", "--tag", "eu") == [started]
    assert listed("--until", "1h") == []
    assert listed("--text", started) == [started]
    (execution,) = run_json("list", "--tag", "vip")["executions"]
    assert (execution["metadata"], execution["tags"]) == (
        {"order": 7, "customer": "Ada Lovelace"},
        ["vip", "eu"],
    )
    for wrong, message in [
        (["--where", "order=7"], "--where 'order' is not a path into the metadata"),
        (["--where", "order"], "--where 'order' has no path and value"),
        (["--where", "metadata.a=1", "--where", "metadata.a=2"], "a path is given twice"),
        (["--since", "soon"], "soon is no time"),
    ]:
        refused = run("list", *wrong)
        assert (refused.exit_code, message in refused.output) == (2, True), refused.output
    cancelled = run_json("cancel", "--tag", "vip", "--yes")
    assert [each["executionId"] for each in cancelled["moved"]] == [started]
