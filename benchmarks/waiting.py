"""The cost of waiting: thousands of executions that wait for times and events, and a thousand waking at once.

The client starts all of them, and the workers walk them into their waits. Then the workers are watched while
nothing is due, and the broker when a thousand timers end in the same instant.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psutil

from benchmarks.broker_log import BrokerLog, Message
from benchmarks.history import copy_execution
from benchmarks.report import Figure, Section, at_most, exactly
from benchmarks.testbed import BenchmarkFailed, Testbed, print_step
from benchmarks.usage import Usage
from workflow_engine import ExecutionStatus, Workflow, WorkflowBuilder

PROCESSOR_LIMIT = 2.0
"""Percent of one core, for all processes of both workers."""
PUBLISH_LIMIT = 2.0
"""Seconds from the instant that all timers are due to the last message."""

SETTLING = 5.0
"""Seconds for pools and caches to settle after the starts, and for Postgres to flush its counts."""

WORKERS = ("worker1", "worker2")
TIMER, EVENT, BURST = "timer", "event", "burst"


@dataclass(frozen=True)
class Size:
    """The numbers of a run; times in seconds."""

    finished: int
    waiting: int
    """On timers; the same number on events."""
    watched: float
    at_once: int


FULL = Size(finished=100_000, waiting=10_000, watched=60, at_once=1_000)
QUICK = Size(finished=1_000, waiting=100, watched=3, at_once=300)


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure waiting, on two workers of two processes each."""
    size = QUICK if quick else FULL
    for workflow in (_timer(TIMER), _timer(BURST), _event()):
        testbed.client.deploy(workflow)
    pids = testbed.start_workers(*WORKERS)
    _make_history(testbed, size)
    seconds_each = _open_waits(testbed, size)
    at_rest = _counts(testbed, size)
    print_step(f"nothing is due: watching the workers for {size.watched:g} s")
    watched = _watch(testbed, pids, size.watched)
    burst = _burst(testbed, pids, size, ahead=3 + 2 * seconds_each * size.at_once)
    return Section([*at_rest, *_cost(watched), *burst], _method(size))


def _timer(workflow_id: str) -> Workflow:
    flow = WorkflowBuilder(workflow_id)
    asked = flow.trigger("asked")
    asked >> flow.delay("pause", until="{{ asked.until }}") >> flow.function("done", "{{ asked.until }}")
    return flow.build()


def _event() -> Workflow:
    flow = WorkflowBuilder(EVENT)
    asked = flow.trigger("asked")
    paid = flow.wait_events("paid", ["paid"], correlation_id="{{ asked.order }}")
    asked >> paid >> flow.function("done", "{{ paid.paid }}")
    return flow.build()


# -- executions that wait ----------------------------------------------------------------------------------


def _make_history(testbed: Testbed, size: Size) -> None:
    print_step(f"{size.finished:,} finished executions, copied in bulk from one that ran")
    soon = datetime.now(UTC) + timedelta(seconds=1)
    original = testbed.client.start(TIMER, {"until": soon.isoformat()})
    testbed.client.wait(original.id, timeout=20)
    copy_execution(testbed.engine, original.id, size.finished - 1)


def _open_waits(testbed: Testbed, size: Size) -> float:
    """Start the executions that wait. Return the seconds that each took to begin its wait."""
    print_step(f"starting 2 x {size.waiting:,} executions, which the workers walk into their waits")
    begin = time.monotonic()
    in_a_week = (datetime.now(UTC) + timedelta(days=7)).isoformat()
    for number in range(size.waiting):
        testbed.client.start(TIMER, {"until": in_a_week})
        testbed.client.start(EVENT, {"order": f"order-{number}"})
    for workflow_id in (TIMER, EVENT):
        _wait_until_waiting(testbed, workflow_id, size.waiting, timeout=600)
    seconds = time.monotonic() - begin
    print_step(f"all of them wait, {seconds:.0f} s after the first was started")
    return seconds / (2 * size.waiting)


def _wait_until_waiting(testbed: Testbed, workflow_id: str, number: int, timeout: float) -> None:
    testbed.wait_until(
        lambda: testbed.client.count(workflow_id).get(ExecutionStatus.WAITING, 0) == number,
        timeout,
        f"{number:,} executions of {workflow_id!r} wait",
    )


def _counts(testbed: Testbed, size: Size) -> list[Figure]:
    open_waits = dict(
        testbed.rows(
            "SELECT wait_type, count(*) FROM execution_wait_states WHERE status = 'WAITING' GROUP BY 1",
        )
    )
    # Every list in Redis is a queue of the broker.
    queues = testbed.redis.scan_iter(count=1000, _type="list")
    return [
        exactly("executions waiting for a time, as rows", open_waits.get("DELAY", 0), size.waiting),
        exactly("executions waiting for an event, as rows", open_waits.get("EVENTS", 0), size.waiting),
        exactly("messages for them in the broker", sum(testbed.redis.llen(queue) for queue in queues), 0),
        exactly("locks held", sum(1 for _ in testbed.redis.scan_iter("lock:*", count=1000)), 0),
    ]


# -- while nothing is due ----------------------------------------------------------------------------------


def _watch(testbed: Testbed, pids: Mapping[str, int], seconds: float) -> Usage:
    time.sleep(min(SETTLING, seconds))
    before = Usage.now(testbed, pids)
    time.sleep(seconds)
    return Usage.now(testbed, pids) - before


def _cost(watched: Usage) -> list[Figure]:
    def share(name: str, processor_seconds: float) -> Figure:
        return Figure(name, f"{watched.percent(processor_seconds):.2f} %")

    return [
        at_most(
            "processor time of both workers, share of one core",
            watched.percent(watched.workers.total),
            PROCESSOR_LIMIT,
            "%",
        ),
        share("- their main processes' event loops (Celery)", watched.workers.first_thread),
        share("- their timekeepers", watched.workers.other_threads),
        share("- their pools", watched.workers.children),
        share("processor time of Postgres, autovacuum included", watched.postgres.total),
        share("processor time of Redis", watched.redis.total),
        share("processor time of the rest of the machine", watched.others),
        Figure("transactions in Postgres", f"{watched.transactions / watched.seconds:.1f} /s"),
    ]


# -- all at once -------------------------------------------------------------------------------------------


def _burst(testbed: Testbed, pids: Mapping[str, int], size: Size, ahead: float) -> list[Figure]:
    """Wake executions that are started now and whose timers are all due `ahead` seconds from now."""
    due = datetime.now(UTC) + timedelta(seconds=ahead)
    print_step(f"starting {size.at_once:,} executions whose timers are all due at {due:%H:%M:%S.%f}")
    for _ in range(size.at_once):
        testbed.client.start(BURST, {"until": due.isoformat()})
    _wait_until_waiting(testbed, BURST, size.at_once, timeout=(due - datetime.now(UTC)).total_seconds())
    with BrokerLog(testbed.settings.redis_url) as log:
        # No query disturbs them while they wake.
        time.sleep((due - datetime.now(UTC)).total_seconds() + 2 * PUBLISH_LIMIT)
        testbed.wait_until(
            lambda: testbed.client.count(BURST).get(ExecutionStatus.COMPLETED, 0) == size.at_once,
            60,
            "all executions whose timers were due together have completed",
        )
    woken = [message for message in log.messages if message.node_id == "pause"]
    ((last_completed,),) = testbed.rows(
        f"SELECT max(completed_at) FROM executions WHERE workflow_id = '{BURST}'"
    )
    return _of_burst(woken, _workers_by_port(pids), due, last_completed, size)


def _of_burst(
    woken: list[Message], workers: Mapping[int, str], due: datetime, last_completed: datetime, size: Size
) -> list[Figure]:
    if not woken:
        raise BenchmarkFailed("no message of a timer was seen at the broker")
    by_execution = Counter(message.execution_id for message in woken)
    by_worker = Counter(workers.get(message.port, "unknown") for message in woken)
    delays = sorted(message.time - due.timestamp() for message in woken)
    name = f"{size.at_once:,} timers due in the same instant"
    return [
        exactly(f"{name}: published", len(by_execution), size.at_once),
        exactly("- published more than once", len(woken) - len(by_execution), 0),
        Figure(
            "- by each worker",
            " + ".join(f"{by_worker[worker]:,}" for worker in WORKERS),
            "both take part",
            all(by_worker[worker] for worker in WORKERS) and set(by_worker) == set(WORKERS),
        ),
        Figure("- the first published after", f"{delays[0]:.2f} s", "not before", delays[0] >= 0),
        Figure("- half of them after", f"{delays[len(delays) // 2]:.2f} s"),
        at_most("- the last after", delays[-1], PUBLISH_LIMIT, "s"),
        Figure("- all executions completed after", f"{(last_completed - due).total_seconds():.2f} s"),
    ]


def _workers_by_port(pids: Mapping[str, int]) -> dict[int, str]:
    """Return the worker whose main process owns each port: its timekeeper runs there."""
    return {
        connection.laddr.port: name
        for name, pid in pids.items()
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.laddr
    }


def _method(size: Size) -> str:
    return (
        f"Two workers of two processes, with Celery's defaults. 2 x {size.waiting:,} executions were started "
        "through the client and walked into their waits by the workers, in tables that also hold "
        f"{size.finished:,} finished executions (copied in bulk from one that ran). All processes of the "
        f"workers were then watched for {size.watched:g} s. Redis stamped the times of the messages when it "
        "took them."
    )
