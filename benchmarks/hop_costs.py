"""What one hop leaves behind and costs the servers: WAL, rows, indexes, commands, memory, connections.

Bytes and commands are counted, not timed, so they hardly depend on the machine; processor time does.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from benchmarks.capacity import Connections, Costs
from benchmarks.contenders import BATCH_TIMEOUT, stopped
from benchmarks.counters import BROKER_COMMANDS, DIRECT_COMMANDS, Counters, TableCounters, sizes
from benchmarks.nodes import texts
from benchmarks.testbed import BenchmarkFailed, Testbed, print_step
from benchmarks.usage import Usage
from benchmarks.wal import Wal
from workflow_engine import ExecutionStatus
from workflow_engine.redis.keys import Keys

PROCESSES = 2
NODES = 10


@dataclass(frozen=True)
class Size:
    """The numbers of executions of a run."""

    warm: int
    at_once: int
    resting: int


@dataclass(frozen=True)
class PerHop:
    """The servers' own counts, per hop."""

    wal_bytes: float
    aof_bytes: float
    redis_received: float
    redis_sent: float
    calls: Mapping[str, float]

    @classmethod
    def of(cls, counted: Counters, hops: int) -> PerHop:
        return cls(
            counted.wal_bytes / hops,
            counted.aof_bytes / hops,
            counted.redis_received / hops,
            counted.redis_sent / hops,
            defaultdict(float, {name: calls / hops for name, calls in counted.calls.items()}),
        )


@dataclass(frozen=True)
class Batch:
    """Executions that were started while the workers were stopped, and then walked to their ends."""

    executions: int
    starts: Counters
    hops: Counters
    wal: Wal
    """Of the hops."""
    used: Usage
    seconds: float
    message_bytes: float
    message_memory: float

    @property
    def number_of_hops(self) -> int:
        return self.executions * NODES

    @property
    def per_hop(self) -> PerHop:
        return PerHop.of(self.hops, self.number_of_hops)

    @property
    def images_per_hop(self) -> float:
        """Bytes of full-page images in the WAL."""
        return self.wal.image_bytes / self.number_of_hops

    @property
    def hops_per_second(self) -> float:
        return self.number_of_hops / self.seconds

    @property
    def share_in_commands(self) -> float:
        """The share of the processor time of Redis that it counts for commands; the rest is around them."""
        microseconds = sum(self.hops.microseconds[name] for name in DIRECT_COMMANDS)
        return microseconds / 1e6 / self.used.redis.total

    @property
    def others_per_hop(self) -> float:
        """Processor time outside the benchmark: how quiet the machine was."""
        return self.used.others / self.number_of_hops


@dataclass(frozen=True)
class Footprint:
    """All findings for outputs of one length."""

    length: int
    executions: int
    """Executions in the tables when their sizes were taken."""
    after_checkpoint: Batch
    steady: Batch
    tables: TableCounters
    sizes: Mapping[tuple[str, str], int]
    costs: Costs

    @property
    def cold_updates(self) -> float:
        """Updates of an execution that were not within the page."""
        return (self.tables.updates - self.tables.hot_updates) / self.executions

    @property
    def dead_rows(self) -> float:
        return self.tables.dead_rows / self.executions

    @property
    def transactions(self) -> float:
        """Transactions per hop; that of the start belongs to the first."""
        return self.tables.transactions / (self.executions * NODES)


def measured(
    testbed: Testbed, pids: Mapping[str, int], size: Size, length: int, connections: Sequence[Connections]
) -> Footprint:
    """Walk executions whose nodes return `length` bytes; the one worker has these processes."""
    workflow_id, resting = f"text{length}", f"resting{length}"
    testbed.client.deploy(texts(workflow_id, NODES, length))
    testbed.client.deploy(texts(resting, NODES, length, rests=True))
    testbed.execute("TRUNCATE executions CASCADE")
    before = TableCounters.at_last(testbed)
    print_step(
        f"{size.at_once} executions of {NODES} nodes with outputs of {length} bytes, after a checkpoint"
    )
    _walk(testbed, pids, workflow_id, size.warm)
    after_checkpoint = _walk(testbed, pids, workflow_id, size.at_once, checkpoint=True)
    print_step("and once more, without one")
    steady = _walk(testbed, pids, workflow_id, size.at_once)
    tables = TableCounters.at_last(testbed) - before
    on_disk = sizes(testbed)
    executions = size.warm + 2 * size.at_once
    context_memory = _context_memory(testbed, resting, size.resting)
    costs = _costs(steady, on_disk, executions, context_memory, connections)
    return Footprint(length, executions, after_checkpoint, steady, tables, on_disk, costs)


def _walk(
    testbed: Testbed, pids: Mapping[str, int], workflow_id: str, executions: int, *, checkpoint: bool = False
) -> Batch:
    """Start executions and walk them to their ends; `checkpoint` makes one between starts and hops."""
    with testbed.redis.pubsub(ignore_subscribe_messages=True) as endings:  # type: ignore[no-untyped-call]
        endings.psubscribe(Keys.of(testbed.settings).finished("*"))
        with stopped(pids):
            before = Counters.now(testbed)
            for _ in range(executions):
                testbed.client.start(workflow_id)
            started = Counters.now(testbed)
            if checkpoint:
                testbed.execute("CHECKPOINT")
            queued = Counters.now(testbed)
            message_bytes, message_memory = _messages(testbed)
            used = Usage.now(testbed, pids)
        begin = time.perf_counter()
        ended = 0
        while ended < executions:
            if time.perf_counter() > begin + BATCH_TIMEOUT:
                raise BenchmarkFailed(f"{ended} of {executions} executions ended within {BATCH_TIMEOUT:g} s")
            ended += endings.get_message(timeout=1) is not None
        seconds = time.perf_counter() - begin
        finished = Counters.now(testbed)
        used = Usage.now(testbed, pids) - used
        return Batch(
            executions,
            starts=started - before,
            hops=finished - queued,
            wal=Wal.between(testbed, queued.wal_bytes, finished.wal_bytes),
            used=used,
            seconds=seconds,
            message_bytes=message_bytes,
            message_memory=message_memory,
        )


def _messages(testbed: Testbed) -> tuple[float, float]:
    """Return the bytes of a message in the broker, and the memory that it takes there."""
    queues = list(testbed.redis.scan_iter(_type="list"))
    lengths = {queue: testbed.redis.llen(queue) for queue in queues}
    (queue,) = [queue for queue in queues if lengths[queue] == max(lengths.values())]
    memory = testbed.redis.memory_usage(queue, samples=0) or 0
    return len(testbed.redis.lindex(queue, 0) or ""), memory / lengths[queue]


def _context_memory(testbed: Testbed, workflow_id: str, executions: int) -> float:
    """Return the bytes of an execution's context in Redis after its last node, while it waits."""
    for _ in range(executions):
        testbed.client.start(workflow_id)
    testbed.wait_until(
        lambda: testbed.client.count(workflow_id).get(ExecutionStatus.WAITING, 0) == executions,
        BATCH_TIMEOUT,
        "executions wait",
    )
    contexts = list(testbed.redis.scan_iter(Keys.of(testbed.settings).context("*")))
    memory = sum(testbed.redis.memory_usage(context, samples=0) or 0 for context in contexts)
    testbed.redis.delete(*contexts)
    return memory / len(contexts)


def connections(testbed: Testbed, pids: Mapping[str, int]) -> list[Connections]:
    """Return a worker's connections to Postgres and to Redis, once each of its parts has run."""
    testbed.client.deploy(texts("first", NODES, 1))
    _walk(testbed, pids, "first", 10 * PROCESSES)

    def open_now() -> list[Connections]:
        urls = (testbed.settings.database_url, testbed.settings.redis_url)
        found = [_connections(pids, url) for url in urls]
        return found if all(each.main and each.process for each in found) else []

    return testbed.wait_until(open_now, 10, "the worker and its pool are connected")


def _connections(pids: Mapping[str, int], url: str) -> Connections:
    (main,) = [psutil.Process(pid) for pid in pids.values()]
    port = urlsplit(url).port

    def open_by(process: psutil.Process) -> int:
        return sum(1 for each in process.net_connections("tcp") if each.raddr and each.raddr.port == port)

    return Connections(open_by(main), max(map(open_by, main.children())))


def _costs(
    batch: Batch,
    on_disk: Mapping[tuple[str, str], int],
    executions: int,
    context_memory: float,
    connections: Sequence[Connections],
) -> Costs:
    hops, used = batch.number_of_hops, batch.used

    def bytes_of(table: str) -> int:
        return sum(size for (name, _), size in on_disk.items() if name == table)

    return Costs(
        nodes=NODES,
        main_seconds=(used.workers.first_thread + used.workers.other_threads) / hops,
        pool_seconds=used.workers.children / hops,
        postgres_seconds=used.postgres.total / hops,
        redis_seconds=used.redis.total / hops,
        broker_share=_broker_share(batch.hops, used.redis.total),
        wal_bytes=batch.per_hop.wal_bytes,
        wal_bytes_per_start=batch.starts.wal_bytes / batch.executions,
        aof_bytes=batch.per_hop.aof_bytes,
        row_bytes=bytes_of("node_executions") / (executions * (NODES + 1)),
        execution_bytes=bytes_of("executions") / executions,
        context_bytes=context_memory,
        message_bytes=batch.message_memory,
        postgres_connections=connections[0],
        redis_connections=connections[1],
    )


def _broker_share(counted: Counters, seconds: float) -> float:
    """Return the broker's share of the time of Redis.

    The time in commands is counted; the time around them is divided by their number.
    """
    direct = {name: calls for name, calls in counted.calls.items() if name in DIRECT_COMMANDS}
    inside = sum(counted.microseconds[name] for name in direct) / 1e6
    broker_inside = sum(counted.microseconds[name] for name in direct if name in BROKER_COMMANDS) / 1e6
    around = max(0.0, seconds - inside)
    calls = sum(calls for name, calls in direct.items() if name in BROKER_COMMANDS) / sum(direct.values())
    return (broker_inside + around * calls) / (inside + around)
