"""The pages, lists and explanations beside a million executions, and what open pages cost the workers.

A page that is open looks for changes every few seconds. What its looks cost is compared with the hops of the
same minute, as processor time, because the time of either is lost in the noise of a machine.
"""

from __future__ import annotations

import base64
import http.client
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from benchmarks.contenders import DurableExecutions, stopped
from benchmarks.nodes import no_ops
from benchmarks.past_month import RARE_EVENT, RARE_TAG, RARE_WORD, WORKFLOWS, PastMonth
from benchmarks.report import Figure, Section, Spread, at_most
from benchmarks.testbed import PROCESSES, WORKER, Testbed, print_step
from benchmarks.usage import Usage
from workflow_engine import ExecutionStatus, WorkflowClient

LIMIT, EXPLAIN_LIMIT = 100.0, 200.0
"""Milliseconds for a page or a list, and for an explanation: the p95."""

SHARE_LIMIT = 2.0
"""Percent of the machine that ten open pages may take."""

BROWSERS, INTERVAL = 10, 3.0
"""Pages that are open, and the seconds between two looks of each, as in the pages' script."""

NODES = 10
PAGE_SIZE = 51
USER = ("ann", "secret")
OF_THE_DESK = "desk"


class Visitor:
    """A browser that has signed on, with a connection that stays open."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        self._headers = {"Authorization": f"Basic {base64.b64encode(':'.join(USER).encode()).decode()}"}

    def get(self, path: str, tag: str = "") -> tuple[int, str]:
        """Return the status of the answer and the tag of what it shows."""
        headers = {**self._headers, **({"If-None-Match": tag} if tag else {})}
        self._connection.request("GET", path, headers=headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Etag", "")


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure open pages beside hops, then each page and list beside many executions."""
    address, pid = testbed.start_flower(USER)
    visitor = Visitor(address)
    pids = testbed.start_workers(WORKER)
    looks = list(_look_figures(testbed, visitor, pids, pid, quick))
    times = 5 if quick else 40
    with stopped(pids):  # what stands still is not to be rescued
        executions = 20_000 if quick else 1_000_000
        print_step(f"{executions:,} executions with their journals, copied in bulk from some that ran")
        begin = time.monotonic()
        month = PastMonth(testbed.settings)
        month.fill(executions)
        print_step(f"copied in {time.monotonic() - begin:.0f} s")
        ((rows,),) = testbed.rows("SELECT count(*) FROM node_executions")
        found = list(_figures(month.client, visitor, times))
        testbed.execute("TRUNCATE executions CASCADE")
    testbed.stop_workers(WORKER)
    return Section(looks, _look_method(), further={"pages": Section(found, _method(executions, rows, times))})


def _look_figures(
    testbed: Testbed, visitor: Visitor, pids: Mapping[str, int], pid: int, quick: bool
) -> Iterator[Figure]:
    at_once, looks, turns = (5, 20, 1) if quick else (50, 200, 7)
    testbed.client.deploy(no_ops(OF_THE_DESK, NODES))
    walks = DurableExecutions(testbed, pids, OF_THE_DESK)
    walks.run(at_once, NODES)
    ended = testbed.client.list(OF_THE_DESK, limit=1)[0].id
    pages = {
        "the list": "/executions",
        "the list of a status": "/executions?status=FAILED",
        "an execution": f"/executions/{ended}",
        "the statistics": "/statistics",
    }
    hops: list[float] = []
    spent: dict[str, list[float]] = {name: [] for name in pages}
    print_step("looks of open pages, and hops, in turns")
    for _ in range(turns):
        hops.append(1000 * walks.run(at_once, NODES).processor_seconds_per_hop)
        for name, path in pages.items():
            _, tag = visitor.get(path)
            before = Usage.now(testbed, {"flower": pid})
            for _ in range(looks):
                visitor.get(path, tag)
            used = Usage.now(testbed, {"flower": pid}) - before
            total = used.workers.total + used.postgres.total + used.redis.total
            spent[name].append(1000 * total / looks)
    yield Figure("processor time of a hop", Spread.of(hops).text("ms"))
    cores = os.cpu_count() or 1
    for name, costs in spent.items():
        yield Figure(f"- of a look at {name} that finds nothing new", Spread.of(costs).text("ms"))
        share = 100 * BROWSERS / INTERVAL * statistics.median(costs) / 1000 / cores
        yield at_most(f"- ten browsers with {name}: share of the machine", share, SHARE_LIMIT, "%")


def _figures(client: WorkflowClient, visitor: Visitor, times: int) -> Iterator[Figure]:
    for name, path in page_paths(client).items():
        yield _figure(f"page: {name}", partial(visitor.get, path), times, LIMIT)
    for name, question in lists(client).items():
        yield _figure(f"list: {name}", question, times, LIMIT)
    for name, each in resting(client).items():
        yield _figure(f"explain: {name}", partial(client.explain, each), times, EXPLAIN_LIMIT)
    yield _figure("explain --all", client.explain_all, times, EXPLAIN_LIMIT)


def _figure(name: str, call: Callable[[], object], times: int, limit: float) -> Figure:
    call()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - begin))
    p95 = statistics.quantiles(taken, n=20)[-1]
    value = f"{statistics.median(taken):.1f} ms, p95 {p95:.1f} ms"
    return Figure(name, value, f"p95 at most {limit:g} ms", p95 <= limit)


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
        "a tag of 8 %": {"tags": ["plan-2"]},
        "metadata of one": {"where": {"metadata.order": 4}},
        "metadata of 0.01 %": {"where": {"metadata.customer": 77}},
        "metadata of 17 %": {"where": {"metadata.channel": "web"}},
        "metadata without executions": {"where": {"metadata.order": -1}},
        "a word of no error": {"text": "nothing-like-this"},
        "a word of few errors": {"text": RARE_WORD},
        "a word of 1.5 %": {"text": "declined"},
        "a word of 1.5 %, with children": {"text": "declined", "children": True},
        "an event of few": {"text": RARE_EVENT},
        "an event of 3 %": {"text": "paid"},
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


def _look_method() -> str:
    return (
        f"One worker of {PROCESSES} processes runs batches of executions of {NODES} nodes that do nothing; "
        "in turns with them, one browser asks Flower again and again for a page that has not changed, or for "
        "statistics, which do not ask by themselves. Processor time is of the worker or Flower, Redis and "
        f"Postgres. {BROWSERS} browsers that look every {INTERVAL:g} s take the share of the machine, "
        "which at saturation is that of the throughput."
    )


def _method(executions: int, rows: int, times: int) -> str:
    return (
        f"Beside {executions:,} executions of a month with {rows:,} rows in their journals: copies of some "
        f"that ran, of {WORKFLOWS} workflows of very different sizes and in every status; one in twenty is a "
        "child, and one in twenty has not ended. Pages are asked for over HTTP, lists and explanations of "
        f"the client in this process, {times} times each after a first one: the median and the p95."
    )
