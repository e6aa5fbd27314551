"""The pages, lists and explanations beside a million executions, after what open pages cost the workers."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from benchmarks import open_pages
from benchmarks.contenders import stopped
from benchmarks.open_pages import Visitor
from benchmarks.past_month import RARE_EVENT, RARE_TAG, RARE_WORD, WORKFLOWS, PastMonth
from benchmarks.report import Figure, Section
from benchmarks.testbed import FLOWER, WORKER, Testbed, print_step
from workflow_engine import ExecutionStatus, WorkflowClient

LIMIT = 100.0
"""Milliseconds for a page, a list or an explanation: the p95."""

PAGE_SIZE = 51


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure open pages beside hops, then each page and list beside many executions."""
    address, flower = testbed.start_flower(open_pages.USER)
    pids = testbed.start_workers(WORKER)
    looks = open_pages.measure(testbed, address, flower, pids, quick)
    times = 5 if quick else 40
    # The looks have left executions that are newer than the month, and lists begin with the newest.
    testbed.execute("TRUNCATE executions CASCADE")
    with stopped(testbed.running_workers()):  # what stands still is not to be rescued
        executions = 20_000 if quick else 1_000_000
        print_step(f"{executions:,} executions with their journals, copied in bulk from some that ran")
        begin = time.monotonic()
        month = PastMonth(testbed.settings)
        month.fill(executions)
        print_step(f"copied in {time.monotonic() - begin:.0f} s")
        ((rows,),) = testbed.rows("SELECT count(*) FROM node_executions")
        # Or now and then an answer would take as long as a collection of all that the benchmarks import.
        gc.collect()
        gc.freeze()
        found = list(_figures(month.client, Visitor(address), times))
        testbed.execute("TRUNCATE executions CASCADE")
    testbed.stop_workers(WORKER, FLOWER)
    return replace(looks, further={"pages": Section(found, _method(executions, rows, times))})


def _figures(client: WorkflowClient, visitor: Visitor, times: int) -> Iterator[Figure]:
    for name, path in page_paths(client).items():
        yield _figure(f"page: {name}", partial(visitor.read, path), times)
    for name, question in lists(client).items():
        yield _figure(f"list: {name}", question, times)
    for name, each in resting(client).items():
        yield _figure(f"explain: {name}", partial(client.explain, each), times)
    yield _figure("explain --all", client.explain_all, times)


def _figure(name: str, call: Callable[[], object], times: int) -> Figure:
    call()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - begin))
    p95 = statistics.quantiles(taken, n=20)[-1]
    value = f"{statistics.median(taken):.1f} ms, p95 {p95:.1f} ms"
    return Figure(name, value, f"p95 at most {LIMIT:g} ms", p95 <= LIMIT)


def page_paths(client: WorkflowClient) -> dict[str, str]:
    """Return the addresses of the pages that are measured, by what they show."""
    lists_of = {
        "executions": "",
        "executions that failed": "status=FAILED",
        "executions of a rare workflow": f"workflow=shop-{WORKFLOWS - 1:02}",
        "executions of a day": "period=24h",
        "executions with their children": "children=1",
        "executions with a rare tag": f"tag={RARE_TAG}",
        "executions with a word of few errors": f"text={RARE_WORD}",
        "executions with a word of many errors": "text=declined",
        "executions that wait for an event": "text=paid",
        "executions far down": f"before={_half_way(client)}",
    }
    ids = resting(client)
    return {
        **{name: f"/executions?{query}" for name, query in lists_of.items()},
        **{f"an execution, {name}": f"/executions/{each}" for name, each in ids.items()},
        "workflows": "/workflows",
        "a workflow": "/workflows/shop-00",
        **{f"statistics of {period}": f"/statistics?period={period}" for period in ("1h", "24h", "7d")},
        "statistics of a workflow": "/statistics?period=7d&workflow=shop-00",
    }


def lists(client: WorkflowClient) -> Mapping[str, Callable[[], object]]:
    """Return the lists that are measured, by what they are filtered by."""
    now, middle = datetime.now(UTC), _half_way(client)
    filters: dict[str, dict[str, Any]] = {
        "all": {},
        "before one of the middle": {"before": middle},
        "since an hour": {"since": now - timedelta(hours=1)},
        "until ten days ago": {"until": now - timedelta(days=10)},
        "the largest workflow": {"workflow_id": "shop-00"},
        "the smallest workflow, FAILED": {"workflow_id": "shop-19", "statuses": ["FAILED"]},
        **{status.value: {"statuses": [status]} for status in ExecutionStatus},
        "FAILED, before one of the middle": {"statuses": ["FAILED"], "before": middle},
        "with children": {"children": True},
        "with children, FAILED": {"children": True, "statuses": ["FAILED"]},
        "with children, a workflow": {"children": True, "workflow_id": "shop-00"},
        "a tag without executions": {"tags": ["nobody"]},
        "a tag of three": {"tags": [RARE_TAG]},
        "a tag of 0.7 %": {"tags": ["region-7"]},
        "a tag of 0.7 %, since two days": {"tags": ["region-7"], "since": now - timedelta(days=2)},
        "a tag of 3 %": {"tags": ["vip"]},
        "a tag of 3 %, FAILED": {"tags": ["vip"], "statuses": ["FAILED"]},
        "a tag of 3 %, PAUSED": {"tags": ["vip"], "statuses": ["PAUSED"]},
        "a tag of 3 %, with children": {"tags": ["vip"], "children": True},
        "a tag of 8 %": {"tags": ["plan-2"]},
        "a tag of 8 %, COMPLETED": {"tags": ["plan-2"], "statuses": ["COMPLETED"]},
        "a tag of 8 %, FAILED, with children": {
            "tags": ["plan-2"],
            "statuses": ["FAILED"],
            "children": True,
        },
        "a tag of 8 %, a workflow without it": {"tags": ["plan-2"], "workflow_id": "shop-19"},
        "a tag of 8 %, that workflow with children": {
            "tags": ["plan-2"],
            "workflow_id": "shop-19",
            "children": True,
        },
        "a tag of 8 % and one of 3 %, never both": {"tags": ["plan-2", "vip"]},
        "a tag of 10 %, none of the newest": {"tags": ["spring"]},
        "a tag of 10 %, none of the newest, FAILED": {"tags": ["spring"], "statuses": ["FAILED"]},
        "metadata of one": {"where": {"metadata.order": 4}},
        "metadata of 0.01 %": {"where": {"metadata.customer": 77}},
        "metadata of 17 %": {"where": {"metadata.channel": "web"}},
        "metadata of 17 %, a workflow": {"where": {"metadata.channel": "web"}, "workflow_id": "shop-19"},
        "metadata of 17 %, a tag of 8 %": {"where": {"metadata.channel": "web"}, "tags": ["plan-2"]},
        "metadata of 17 %, a tag none of the newest has": {
            "where": {"metadata.channel": "web"},
            "tags": ["spring"],
        },
        "metadata without executions": {"where": {"metadata.order": -1}},
        "a word of no error": {"text": "nothing-like-this"},
        "a word of few errors": {"text": RARE_WORD},
        "a word of 1.5 %": {"text": "declined"},
        "a word of 1.5 %, with children": {"text": "declined", "children": True},
        "a word of 1.5 %, FAILED": {"text": "declined", "statuses": ["FAILED"]},
        "a word of 1.5 %, a workflow": {"text": "declined", "workflow_id": "shop-19"},
        "a word, none of the newest": {"text": "outage"},
        "an event of few": {"text": RARE_EVENT},
        "an event of 3 %": {"text": "paid"},
        "an event of 3 %, with children": {"text": "paid", "children": True},
        "an event of 3 %, a workflow": {"text": "paid", "workflow_id": "shop-19"},
        "an event of 3 %, a tag of 3 %": {"text": "paid", "tags": ["vip"]},
        "an event of 3 %, metadata of 17 %": {"text": "paid", "where": {"metadata.channel": "web"}},
        "an event, COMPLETED": {"text": "paid", "statuses": ["COMPLETED"]},
        "an idempotency key": {"text": "key-3"},
        "the beginning of an id": {"text": middle[:8]},
    }
    return {name: partial(client.list, limit=PAGE_SIZE, **given) for name, given in filters.items()}


def resting(client: WorkflowClient) -> dict[str, str]:
    """Return the id of one execution of each kind that stands still, and of one that completed."""
    statuses = ("COMPLETED", "FAILED", "PAUSED", "RUNNING", "PENDING")
    found = {status: client.list(statuses=[status], limit=1)[0].id for status in statuses}
    found["waiting for an event"] = client.list(text="paid", limit=1)[0].id
    seen = {each.example.execution_id: each.code for each in client.explain_all().groups if each.example}
    return {**found, **{code.value: id for id, code in seen.items()}}


def _half_way(client: WorkflowClient) -> str:
    middle = client.list(until=datetime.now(UTC) - timedelta(days=15), limit=1)
    return middle[0].id


def _method(executions: int, rows: int, times: int) -> str:
    return (
        f"Beside {executions:,} executions of a month with {rows:,} rows in their journals: copies of some "
        f"that ran, of {WORKFLOWS} workflows of very different sizes and in every status; one in twenty is a "
        "child, and one in twenty has not ended. Pages are asked for over HTTP, lists and explanations of "
        f"the client in this process, {times} times each after a first one: the median and the p95. What "
        "this process has loaded before is left out of Python's garbage collection."
    )
