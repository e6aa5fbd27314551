"""Lists find what few have, what many have, and what many had long ago, and read little for each."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from support.broker import Workers
from support.statements import recorded_statements
from support.workflows import line
from workflow_engine import Execution, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.postgres.executions import lists

Sql = Callable[..., list[tuple[Any, ...]]]


def done() -> int:
    return 1


def fails() -> None:
    raise ValueError("the card was declined by the bank")


def asks(context: Any) -> Any:
    return waiting(events=["paid"], correlation_id="order") if context.wake is None else None


@pytest.fixture
def small_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each look of a list so small that few hundred executions need every kind of them."""
    sizes = {"FIRST": 12, "FIRST_OF_CHOSEN": 9, "SAMPLED": 8 * 8_192, "MANY": 9, "MANY_KNOWN": 9, "AROUND": 5}
    for name, value in sizes.items():
        monkeypatch.setattr(lists, name, value)


# -- what a list holds ---------------------------------------------------------------------------------------

# Copies of one at work, one that failed, one that waits and one that has completed; one in seven is a child.
COPIES = """
WITH copies AS (
    SELECT n, ('01900000-' || lpad(to_hex(n / 7), 4, '0') || '-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid
        AS id, (%s::uuid[])[1 + abs(hashint4(n)) %% 4] AS original
    FROM generate_series(1, 400) AS n
),
waits AS (
    INSERT INTO execution_wait_states SELECT copy.* FROM copies
    JOIN execution_wait_states w ON w.execution_id = copies.original,
    LATERAL jsonb_populate_record(w, jsonb_build_object('id', gen_random_uuid(), 'execution_id', copies.id,
        'correlation_id', 'order-' || n %% 50)) copy
)
INSERT INTO executions SELECT copy.* FROM copies JOIN executions e ON e.id = copies.original,
    LATERAL jsonb_populate_record(e, jsonb_build_object(
        'id', copies.id, 'workflow_id', e.workflow_id,
        'parent_execution_id', CASE WHEN n %% 7 = 0 THEN lpad('', 32, '0') END,
        'user_metadata', jsonb_build_object('order', n, 'channel', n %% 3),
        'tags', ARRAY['tag-' || n] || CASE WHEN n %% 2 = 0 THEN ARRAY['half'] ELSE '{}' END
            || CASE WHEN n BETWEEN 60 AND 160 THEN ARRAY['old'] ELSE '{}' END
            || CASE WHEN n < 9 THEN ARRAY['oldest'] ELSE '{}' END,
        'idempotency_key', 'key-' || n,
        'error', e.error || CASE WHEN n < 100 THEN ' outage' ELSE '' END)) copy
"""

FILTERS: Sequence[Mapping[str, Any]] = (
    *({"tags": [tag]} for tag in ("half", "old", "oldest", "tag-77", "none")),
    {"tags": ["half", "old"]},
    {"where": {"metadata.channel": 1}},
    {"where": {"metadata.order": 200}},
    {"where": {"metadata.channel": 1}, "tags": ["old"]},
    *({"text": text} for text in ("declined", "outage", "paid", "order-7", "key-50", "half", "01900000")),
    {"text": "paid", "tags": ["old"]},
)

NARROWER: Sequence[Mapping[str, Any]] = (
    {},
    {"children": True},
    {"statuses": ["FAILED"]},
    {"statuses": ["WAITING", "COMPLETED"], "children": True},
    {"workflow_id": "failing"},
    {"workflow_id": "asked", "children": True},
    {"workflow_id": "asked", "statuses": ["WAITING"]},
)


def has(
    execution: Execution,
    *,
    tags: Sequence[str] = (),
    where: Mapping[str, Any] | None = None,
    text: str | None = None,
    statuses: Sequence[str] = (),
    workflow_id: str | None = None,
    children: bool = False,
) -> bool:
    """Tell whether a list with these filters holds an execution, from what it shows of itself."""
    metadata = {f"metadata.{key}": value for key, value in execution.metadata.items()}
    # The hexadecimal number at the end of its id is that of the copy.
    names = {execution.idempotency_key, *execution.tags, *(execution.error or "").split(" ")}
    if execution.status == "WAITING":
        names |= {"paid", f"order-{int(execution.id[-12:], 16) % 50}"}
    return (
        set(tags) <= set(execution.tags)
        and all(metadata.get(path) == value for path, value in (where or {}).items())
        and (text is None or text in names or execution.id.startswith(text))
        and (not statuses or execution.status in statuses)
        and workflow_id in (None, execution.workflow_id)
        and (children or execution.parent_id is None)
    )


def test_the_pages_of_a_list_hold_what_its_filters_are_about_and_nothing_else(
    client: WorkflowClient, workers: Workers, sql: Sql, small_looks: None
) -> None:
    for node, name in ((done, "done"), (fails, "failing"), (asks, "asked"), (done, "due")):
        client.deploy(line(node, id=name))
    originals = [client.start(name).id for name in ("done", "failing", "asked")]
    workers.drain()
    sql(COPIES, [*originals, client.start("due").id])
    everything = client.list(children=True, limit=1000)
    assert len(everything) == 404
    chosen = random.Random(7)

    for filters in FILTERS:
        for narrower in NARROWER:
            wanted = {**filters, **narrower}
            expected = [each.id for each in everything if has(each, **wanted)]
            size, found = chosen.choice((3, 10, 60)), list[str]()
            while page := client.list(**wanted, limit=size, before=found[-1] if found else None):
                found += [each.id for each in page]
                if len(page) < size:
                    break
            assert found == expected, wanted


# -- what a list reads ---------------------------------------------------------------------------------------

MANY = 10_000

MANY_COPIES = f"""
INSERT INTO executions SELECT copy.* FROM executions e, generate_series(1, {MANY}) n,
    LATERAL jsonb_populate_record(e, jsonb_build_object(
        'id', ('01900000-' || lpad(to_hex(n), 4, '0') || '-7000-8000-' || lpad('', 12, '0'))::uuid,
        'user_metadata', jsonb_build_object('order', n, 'channel', n %% 5),
        'tags', ARRAY['tag-' || n] || CASE WHEN n %% 4 = 0 THEN ARRAY['quarter'] ELSE '{{}}' END
            || CASE WHEN n BETWEEN 2000 AND 5000 THEN ARRAY['old'] ELSE '{{}}' END,
        'idempotency_key', 'key-' || n,
        'error', e.error || ' word' || n)) copy
WHERE e.id = %s
"""


@pytest.fixture
def failed(client: WorkflowClient, workers: Workers, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make many executions that failed, among which a list looks for a hundredth of them at a time."""
    client.deploy(line(fails, id="failing"))
    original = client.start("failing").id
    workers.drain()
    sql(MANY_COPIES, original)
    # In the order in which they started: other tests leave pages with little in them, in which rows would be
    # scattered, and a sample of pages with little.
    sql("CLUSTER executions USING executions_pkey")
    sql("VACUUM (ANALYZE) executions")
    sizes = {"FIRST": 100, "FIRST_OF_CHOSEN": 100, "SAMPLED": 20 * 8_192, "MANY": 100}
    for name, value in sizes.items():
        monkeypatch.setattr(lists, name, value)


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"where": {"metadata.order": 4711}}, "executions_metadata"),
        ({"tags": ["tag-4711"]}, "executions_tags"),
        ({"text": "word4711"}, "executions_error_words"),
        ({"text": "key-4711"}, "executions_key"),
    ],
)
def test_a_rare_one_among_10000_is_found_by_its_index(
    client: WorkflowClient,
    engine: Engine,
    failed: None,
    monkeypatch: pytest.MonkeyPatch,
    filters: dict[str, Any],
    index: str,
) -> None:
    sent = recorded_statements(monkeypatch)

    assert len(client.list(**filters)) == 1
    *_, last = [each for each in sent if "matching" in each.statement]
    assert f"on {index}" in last.plan(engine)
    assert last.pages(engine) < 50


@pytest.mark.parametrize(
    "filters",
    [
        {"tags": ["quarter"]},
        {"tags": ["old"]},
        {"tags": ["old"], "children": True, "statuses": ["FAILED"]},
        {"where": {"metadata.channel": 3}},
        {"where": {"metadata.channel": 3}, "tags": ["quarter"]},
        {"text": "declined"},
        {"text": "quarter"},
        {"text": "old"},
    ],
    ids=str,
)
def test_no_look_for_what_thousands_of_10000_have_reads_most_of_them(
    client: WorkflowClient,
    engine: Engine,
    failed: None,
    monkeypatch: pytest.MonkeyPatch,
    filters: dict[str, Any],
) -> None:
    sent = recorded_statements(monkeypatch)

    assert len(client.list(**filters, limit=50)) == 50
    pages = [each.pages(engine) for each in sent]
    assert max(pages) < 1_000, pages
    assert len(sent) < 20
    assert not any("Seq Scan on executions" in each.plan(engine) for each in sent)


def test_no_look_starts_processes_which_would_take_longer_than_the_look(
    client: WorkflowClient, engine: Engine, failed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = recorded_statements(monkeypatch)

    client.list(tags=["tag-4711"])
    for each in sent:
        in_large_table = {**each.settings, "min_parallel_table_scan_size": "0"}
        assert "Gather" not in replace(each, settings=in_large_table).plan(engine)


@pytest.mark.parametrize("narrower", [{}, {"statuses": ["FAILED"]}], ids=str)
def test_what_fills_a_good_part_of_a_page_is_found_among_the_newest_alone(
    client: WorkflowClient, failed: None, monkeypatch: pytest.MonkeyPatch, narrower: dict[str, Any]
) -> None:
    sent = recorded_statements(monkeypatch)

    assert len(client.list(tags=["quarter"], limit=40, **narrower)) == 40
    assert len(sent) == 2
    assert not any("TABLESAMPLE" in each.statement or "matching" in each.statement for each in sent)


def test_an_index_is_left_out_if_its_entries_are_more_than_the_rows_that_it_would_spare(
    client: WorkflowClient, engine: Engine, failed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As among a thousand times as many: the page needs no more rows then, but the index has more entries.
    monkeypatch.setattr(lists, "OF_ROW", lists.OF_ROW / 1000)
    monkeypatch.setattr(lists, "MANY", 5_000)
    sent = recorded_statements(monkeypatch)

    assert len(client.list(tags=["old"], where={"metadata.channel": 3}, limit=50)) == 50
    *_, last = [each for each in sent if "matching" in each.statement]
    plan = last.plan(engine)
    assert plan.count("on executions_tags") + plan.count("on executions_metadata") == 1, plan


APART = """
UPDATE executions SET workflow_id = 'other', user_metadata = '{"channel": 9}'
WHERE NOT tags @> '{quarter}' AND id::text ~ '[159d]-7000'
"""


@pytest.mark.parametrize(
    ("filters", "indexes"),
    [
        (
            {"tags": ["quarter"], "workflow_id": "other", "statuses": ["FAILED"]},
            ["executions_tags", "executions_by_workflow"],
        ),
        ({"tags": ["quarter"], "where": {"metadata.channel": 9}}, ["executions_tags", "executions_metadata"]),
        (
            {"tags": ["quarter"], "workflow_id": "other", "children": True},
            ["executions_tags", "executions_by_workflow"],
        ),
    ],
    ids=str,
)
def test_what_thousands_have_and_never_together_is_told_from_the_indexes_alone(
    client: WorkflowClient,
    engine: Engine,
    failed: None,
    sql: Sql,
    monkeypatch: pytest.MonkeyPatch,
    filters: dict[str, Any],
    indexes: Sequence[str],
) -> None:
    client.deploy(line(fails, id="other"))
    sql(APART)
    sql("VACUUM (ANALYZE) executions")
    sent = recorded_statements(monkeypatch)

    assert client.list(**filters) == []
    (look,) = [each for each in sent if "matching" in each.statement]
    plan = look.plan(engine)
    assert "BitmapAnd" in plan
    assert [name for name in indexes if plan.count(f"on {name}") != 1] == [], plan
    # Not one of the thousands of rows: they are in hundreds of pages.
    assert look.pages(engine) < 60
