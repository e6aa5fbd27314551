"""What a hop costs each server, and what follows for fleets of workers and for a million executions a day.

The first is measured; `capacity` computes the rest from it. All of it is in docs/scaling.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import psutil

from benchmarks.capacity import (
    Costs,
    Day,
    Installation,
    busy_sessions,
    first_wall,
    of_the_workers,
    on_one_machine,
    pool_processes,
    walls,
)
from benchmarks.counters import DIRECT_COMMANDS
from benchmarks.hop_costs import NODES, PROCESSES, Footprint, Size, connections, measured
from benchmarks.report import SCALING, Comparison, Section
from benchmarks.testbed import WORKER, Testbed

FULL = Size(warm=100, at_once=500, resting=50)
QUICK = Size(warm=5, at_once=15, resting=5)

LENGTHS = (100, 1_000)
"""Bytes of the output of each node."""
RARE = 0.05
"""Calls per hop below which a command belongs to something else: heartbeats, timekeepers."""
WORKERS = (1, 10, 100)
KEPT_DAYS = (30, 180)
NODE_SECONDS = 1.0

Row = tuple[str, ...]


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure the footprint of a hop, on one worker of two processes, and compute what follows from it."""
    size = QUICK if quick else FULL
    pids = testbed.start_workers(WORKER)
    held = connections(testbed, pids)
    found = [measured(testbed, pids, size, length, held) for length in LENGTHS]
    costs = [each.costs for each in found]
    columns = [f"outputs of {each.length:,} B" for each in found]
    at = Installation()
    return Comparison(
        figures=(),
        method=_method(size),
        document=SCALING,
        columns=columns,
        rows=_hop_rows(found),
        further={
            "fleets": Comparison(
                figures=(),
                method=_method_of_fleets(at),
                document=SCALING,
                columns=[f"{n} worker{'s' if n > 1 else ''}" for n in WORKERS],
                rows=_fleet_rows(costs[-1], at),
            ),
            "day": Comparison(
                figures=(),
                method=_method_of_a_day(at, Day()),
                document=SCALING,
                columns=columns,
                rows=_day_rows(costs, at, Day()),
            ),
        },
    )


# -- a hop -------------------------------------------------------------------------------------------------


def _hop_rows(found: Sequence[Footprint]) -> list[Row]:
    def row(name: str, value: Callable[[Footprint], str]) -> Row:
        return (name, *map(value, found))

    def cost(name: str, value: Callable[[Costs], str]) -> Row:
        return row(name, lambda each: value(each.costs))

    return [
        cost("WAL of a hop", lambda costs: format_bytes(costs.wal_bytes)),
        row("- records", lambda each: f"{each.steady.wal.records / each.steady.number_of_hops:.1f}"),
        row("- full-page images", lambda each: format_bytes(each.steady.images_per_hop)),
        row(
            "WAL of a hop after a checkpoint",
            lambda each: format_bytes(each.after_checkpoint.per_hop.wal_bytes),
        ),
        row("- full-page images", lambda each: format_bytes(each.after_checkpoint.images_per_hop)),
        cost("WAL of a start", lambda costs: format_bytes(costs.wal_bytes_per_start)),
        cost("journal row", lambda costs: format_bytes(costs.row_bytes)),
        *_size_rows(found, "node_executions", per=NODES + 1),
        cost("execution without its journal", lambda costs: format_bytes(costs.execution_bytes)),
        *_size_rows(found, "executions", per=1),
        row("updates of executions within the page (HOT)", lambda each: f"{each.tables.hot_percent:.1f} %"),
        row("- others, of each execution", lambda each: f"{each.cold_updates:.2f}"),
        row("row versions left for vacuum, of each execution", lambda each: f"{each.dead_rows:.2f}"),
        row("- autovacuum runs", lambda each: f"{each.tables.vacuums}"),
        row("transactions in Postgres, starts included", lambda each: f"{each.transactions:.2f}"),
        *_command_rows(found),
        row("received by Redis", lambda each: format_bytes(each.steady.per_hop.redis_received)),
        row("sent by Redis", lambda each: format_bytes(each.steady.per_hop.redis_sent)),
        cost("append-only file of Redis", lambda costs: format_bytes(costs.aof_bytes)),
        row("message in the broker", lambda each: format_bytes(each.steady.message_bytes)),
        cost("- its memory in Redis", lambda costs: format_bytes(costs.message_bytes)),
        cost("memory of a context in Redis", lambda costs: format_bytes(costs.context_bytes)),
        cost("connections to Postgres, main process", lambda costs: f"{costs.postgres_connections.main}"),
        cost("- each process of the pool", lambda costs: f"{costs.postgres_connections.process}"),
        cost("connections to Redis, main process", lambda costs: f"{costs.redis_connections.main}"),
        cost("- each process of the pool", lambda costs: f"{costs.redis_connections.process}"),
        cost("processor time: worker's main process", lambda costs: milliseconds(costs.main_seconds)),
        cost("- its pool", lambda costs: milliseconds(costs.pool_seconds)),
        cost("- Postgres", lambda costs: milliseconds(costs.postgres_seconds)),
        cost("- Redis", lambda costs: milliseconds(costs.redis_seconds)),
        cost("- share of it as Celery's broker", lambda costs: f"{100 * costs.broker_share:.0f} %"),
        row("- share of it in commands", lambda each: f"{100 * each.steady.share_in_commands:.0f} %"),
        row("- rest of the machine", lambda each: milliseconds(each.steady.others_per_hop)),
        row("hops a second, all on this machine", lambda each: f"{each.steady.hops_per_second:,.0f}"),
        cost(
            "- computed from the processor time",
            lambda costs: f"{on_one_machine(costs, psutil.cpu_count()):,.0f}",
        ),
    ]


def _size_rows(found: Sequence[Footprint], table: str, per: int) -> list[Row]:
    names = [name for owner, name in found[0].sizes if owner == table]
    return [
        (
            f"- {'its table' if name == table else name}",
            *(format_bytes(each.sizes[table, name] / (each.executions * per)) for each in found),
        )
        for name in names
    ]


def _command_rows(found: Sequence[Footprint]) -> list[Row]:
    names = sorted(
        {name for each in found for name, calls in each.steady.per_hop.calls.items() if calls >= RARE}
    )

    def sum_of(chosen: Sequence[str]) -> Row:
        return tuple(f"{sum(each.steady.per_hop.calls[name] for name in chosen):.2f}" for each in found)

    direct = [name for name in names if name in DIRECT_COMMANDS]
    others = [name for name in names if name not in DIRECT_COMMANDS]
    return [
        ("commands sent to Redis", *sum_of(direct)),
        *((f"- {name.upper()}", *sum_of([name])) for name in direct),
        ("commands called by its scripts", *sum_of(others)),
        *((f"- {name.upper()}", *sum_of([name])) for name in others),
    ]


def _method(size: Size) -> str:
    return (
        "Per hop, unless a line says otherwise. "
        f"One worker of {PROCESSES} processes with Celery's defaults; executions of {NODES} nodes that do "
        f"nothing but return a text. {size.at_once} of them were started while the worker was stopped, and "
        "then walked to their ends, first right after a checkpoint, then a second time; figures are from "
        "the second run unless stated otherwise. Postgres writes a full-page image when a page changes for "
        "the first time after a checkpoint. Sizes on disk are those of "
        f"tables that hold {size.warm + 2 * size.at_once} executions and nothing else; updates and "
        "transactions are those of all of them. A context's memory is taken after its last node."
    )


# -- fleets ------------------------------------------------------------------------------------------------


def _fleet_rows(costs: Costs, at: Installation) -> list[Row]:
    own_broker = replace(at, has_own_broker=True)

    def row(name: str, value: Callable[[int], str]) -> Row:
        return (name, *map(value, WORKERS))

    def rate(workers: int, at: Installation) -> float:
        return first_wall(walls(costs, workers, at))[1]

    def wall(workers: int, at: Installation) -> str:
        return first_wall(walls(costs, workers, at))[0]

    def sessions(workers: int) -> str:
        held = costs.postgres_connections.of(workers, at.processes)
        return f"{held:,}{' (too many)' if held > at.postgres_connections else ''}"

    return [
        row("processes", lambda workers: f"{workers * at.processes:,}"),
        row("hops/s of the workers alone", lambda n: f"{of_the_workers(walls(costs, n, at)):,.0f}"),
        row("hops/s with one Redis", lambda n: f"{rate(n, at):,.0f}"),
        row("- executions a day", lambda n: f"{rate(n, at) / costs.nodes * 86_400 / 1e6:,.1f} million"),
        row("- **first bottleneck**", lambda n: wall(n, at)),
        row("hops/s with a separate Redis for the broker", lambda n: f"{rate(n, own_broker):,.0f}"),
        row("- **first bottleneck**", lambda n: wall(n, own_broker)),
        row("- busy cores of Postgres", lambda n: f"{rate(n, own_broker) * costs.postgres_seconds:,.1f}"),
        row("- WAL a second", lambda n: format_bytes(rate(n, own_broker) * costs.wal_bytes)),
        row("connections to Postgres", sessions),
        row(
            "- behind PgBouncer, in transaction mode",
            lambda n: f"{max(1, busy_sessions(rate(n, own_broker), at)):,.0f}",
        ),
        row("connections to Redis", lambda n: f"{costs.redis_connections.of(n, at.processes):,}"),
    ]


def _method_of_fleets(at: Installation) -> str:
    return (
        f"Computed from the costs of a hop with outputs of {LENGTHS[-1]:,} B, for executions of {NODES} "
        f"nodes that do nothing. Assumed: workers of {at.processes} processes on {at.worker_cores} cores "
        f"each, Postgres on {at.postgres_cores} cores of the measured kind, a disk that takes "
        f"{format_bytes(at.wal_bytes_per_second)} of WAL a second, {1000 * at.waiting:g} ms of each hop "
        f"spent waiting for network and disk, {1000 * at.flush:g} ms of which a session of Postgres is busy, "
        f"and more than {at.postgres_connections} connections to Postgres are too many. A resource is full "
        f"at {at.full:.0%}. Redis has one thread."
    )


# -- a day -------------------------------------------------------------------------------------------------


def _day_rows(each: Sequence[Costs], at: Installation, day: Day) -> list[Row]:
    def row(name: str, value: Callable[[Costs], str]) -> Row:
        return (name, *map(value, each))

    def at_peak(share: Callable[[Costs], float]) -> Callable[[Costs], str]:
        return lambda costs: f"{day.hops_at_peak(costs) * share(costs):,.2f}"

    def processes(costs: Costs, node_seconds: float) -> str:
        return f"{pool_processes(costs, day.hops_at_peak(costs), node_seconds, at):,.0f}"

    return [
        row("hops/s on average", lambda costs: f"{day.hops_per_second(costs):,.0f}"),
        row("- at the peak", lambda costs: f"{day.hops_at_peak(costs):,.0f}"),
        row("WAL", lambda costs: format_bytes(day.wal_bytes(costs))),
        row("append-only file of Redis", lambda costs: format_bytes(day.aof_bytes(costs))),
        row("growth of the tables", lambda costs: format_bytes(day.disk_bytes(costs))),
        *(
            row(f"- kept for {days} days", lambda costs, days=days: format_bytes(day.disk_bytes(costs, days)))  # type: ignore[misc]
            for days in KEPT_DAYS
        ),
        row("busy cores of Postgres at the peak", at_peak(lambda costs: costs.postgres_seconds)),
        row("share of Redis' one core at the peak", at_peak(lambda costs: costs.redis_seconds)),
        row(
            "busy cores of workers at the peak",
            at_peak(lambda costs: costs.main_seconds + costs.pool_seconds),
        ),
        row("processes, if nodes do nothing", lambda costs: processes(costs, 0)),
        row(f"- if they take {NODE_SECONDS:g} s", lambda costs: processes(costs, NODE_SECONDS)),
        row("executions active at the peak", lambda _: f"{day.active_at_peak():,.0f}"),
        row("- memory of Redis for them", lambda costs: format_bytes(day.redis_bytes(costs))),
    ]


def _method_of_a_day(at: Installation, day: Day) -> str:
    return (
        f"Computed for {day.executions:,} executions of {NODES} nodes a day. Assumed: a peak of "
        f"{day.peak:g} times the average, executions that are active for {day.active_seconds:g} s each, "
        f"{1000 * at.waiting:g} ms of each hop spent waiting, and processes that are busy for at most "
        f"{at.full:.0%} of the peak. WAL without the full-page images that follow a checkpoint. Sizes assume "
        "that vacuum keeps up."
    )


# -- units -------------------------------------------------------------------------------------------------


def format_bytes(size: float) -> str:
    """Return bytes in the unit that reads best."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e4)):
        if size >= factor:
            return f"{size / min(factor, 1e3 if unit == 'kB' else factor):,.1f} {unit}"
    return f"{size:,.0f} B"


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"
