"""The memory of a worker, before its first node and after very many; and the keys they leave in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.contenders import DurableExecutions, RawChains, RawWorker
from benchmarks.nodes import no_ops
from benchmarks.report import Figure, Section, at_most, exactly
from benchmarks.testbed import PROCESSES, WORKER, Testbed, print_step

GROWTH_LIMIT = 2.0
"""Percent."""
IDLE_LIMIT = 1.3
"""The memory of an idle worker, relative to one of raw Celery."""

NODES = 10
NAME = "memory"


@dataclass(frozen=True)
class Size:
    """The numbers of a run."""

    at_once: int
    warm_up: int
    """Batches of `at_once` executions before memory is measured."""
    batches: int


FULL = Size(at_once=200, warm_up=2, batches=10)
QUICK = Size(at_once=10, warm_up=1, batches=1)


@dataclass(frozen=True)
class Memory:
    """Bytes of a worker; a page that several of its processes share counts once (PSS)."""

    main: int
    pool: int
    resident: int
    """With shared pages in each process that has them (RSS)."""
    own: int
    """Of the PSS, what no file backs: those pages are shared with no other program, whose end would count."""

    @classmethod
    def of(cls, pids: Mapping[str, int]) -> Memory:
        mains = [psutil.Process(pid) for pid in pids.values()]
        children = [child for main in mains for child in main.children(recursive=True)]
        resident = sum(process.memory_info().rss for process in [*mains, *children])
        own = sum(_anonymous(process.pid) for process in [*mains, *children])
        return cls(_pss(mains), _pss(children), resident, own)

    @property
    def total(self) -> int:
        return self.main + self.pool

    def text(self) -> str:
        return f"{_mebibytes(self.total)} ({self.main / 2**20:.0f} + {self.pool / 2**20:.0f})"


def _pss(processes: list[psutil.Process]) -> int:
    return sum(process.memory_full_info().pss for process in processes)


def _anonymous(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"


def measure(testbed: Testbed, quick: bool = False) -> Section:
    """Measure the memory of a worker of two processes, and of one of raw Celery."""
    size = QUICK if quick else FULL
    testbed.client.deploy(no_ops(NAME, NODES))
    pids = testbed.start_workers(WORKER)
    engine = DurableExecutions(testbed, pids, NAME)
    with RawWorker(testbed, PROCESSES) as raw:
        fresh, raw_fresh = Memory.of(pids), Memory.of(raw.pids)
        print_step("the first nodes, which load what every process loads once")
        for _ in range(size.warm_up):
            engine.run(size.at_once, NODES)
            RawChains(raw).run(size.at_once, NODES)
        warm, raw_warm = Memory.of(pids), Memory.of(raw.pids)
    keys, redis_memory = _redis(testbed)
    hops = size.batches * size.at_once * NODES
    print_step(f"{hops:,} hops, and what they leave behind")
    for _ in range(size.batches):
        engine.run(size.at_once, NODES)
    after = Memory.of(pids)
    keys_after, redis_memory_after = _redis(testbed)
    testbed.stop_workers(*pids)
    return Section(
        [
            *_beside_raw("idle worker, fresh", fresh, raw_fresh, IDLE_LIMIT),
            *_beside_raw(f"after {size.warm_up * size.at_once * NODES:,} hops", warm, raw_warm),
            Figure(f"after {hops:,} more hops: PSS", after.text()),
            at_most("- growth of what no file backs", 100 * (after.own / warm.own - 1), GROWTH_LIMIT, "%"),
            exactly("keys in Redis after them; target: as before", keys_after, keys),
            Figure("- and memory used by Redis", f"{redis_memory:.2f} to {redis_memory_after:.2f} MiB"),
        ],
        _method(size),
    )


def _beside_raw(when: str, ours: Memory, raw: Memory, limit: float | None = None) -> list[Figure]:
    """Return both sizes of a worker, each beside that of raw Celery, with the target of the ratio."""

    def ratio(own: int, other: int) -> Figure:
        return (
            Figure("- ratio", f"{own / other:.2f}")
            if limit is None
            else at_most("- ratio", own / other, limit)
        )

    return [
        Figure(f"{when}: PSS (main process + pool)", ours.text()),
        Figure("- raw Celery", raw.text()),
        ratio(ours.total, raw.total),
        Figure(f"{when}: RSS", _mebibytes(ours.resident)),
        Figure("- raw Celery", _mebibytes(raw.resident)),
        ratio(ours.resident, raw.resident),
    ]


def _redis(testbed: Testbed) -> tuple[int, float]:
    """Return the number of keys in the engine's database, and the MiB that Redis uses."""
    return testbed.redis.dbsize(), testbed.redis.info("memory")["used_memory"] / 2**20


def _method(size: Size) -> str:
    return (
        f"One worker of {PROCESSES} processes with Celery's defaults, and one of raw Celery. Hops are those "
        f"of {size.at_once} executions of {NODES} nodes at once, batch after batch. The proportional set "
        "size (PSS) counts a page shared by several processes once, the resident set size (RSS) in each of "
        "them. Growth is that of the PSS without pages of files, which programs share that come and go."
    )
