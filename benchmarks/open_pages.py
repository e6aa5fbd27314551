"""What pages that are open cost the workers: the looks of browsers, beside hops.

A page that is open looks for changes every few seconds. What one look costs is compared with the hops of
the same minute as processor time, because the time of either is lost in the noise of a machine. Then ten
pages are open while executions run, most of them lists that change between any two looks, and the
throughput is compared.
"""

from __future__ import annotations

import base64
import http.client
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from benchmarks.contenders import Batch, DurableExecutions, ratios
from benchmarks.nodes import no_ops
from benchmarks.report import Figure, Section, Spread, at_most, ratio_at_least
from benchmarks.testbed import PROCESSES, BenchmarkFailed, Testbed, print_step
from benchmarks.usage import Usage

SHARE_LIMIT = 2.0
"""Percent of the machine that ten open pages may take."""

THROUGHPUT_LIMIT = 0.98
"""The throughput with ten open pages, relative to that without."""

BROWSERS, INTERVAL = 10, 3.0
"""Pages that are open, and the seconds between two looks of each, as in the pages' script."""

CORES = os.cpu_count() or 1
NODES = 10
WORKFLOW = "desk"
USER = ("ann", "secret")


@dataclass(frozen=True)
class Size:
    """The numbers of a run: executions at once beside single looks, and beside open pages."""

    at_once: int
    looks: int
    turns: int
    at_once_beside: int
    turns_beside: int


FULL = Size(at_once=50, looks=200, turns=7, at_once_beside=600, turns_beside=7)
QUICK = Size(at_once=5, looks=20, turns=1, at_once_beside=20, turns_beside=1)


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

    def read(self, path: str) -> None:
        """Read a page. Raises BenchmarkFailed if it is not there."""
        status, _ = self.get(path)
        if status != HTTPStatus.OK:
            raise BenchmarkFailed(f"the page {path} is answered with {status}")

    def close(self) -> None:
        self._connection.close()


class OpenPages:
    """Browsers with one page each, which look for changes as long as the pages are open."""

    def __init__(self, address: str, paths: Sequence[str]) -> None:
        self._address = address
        self._paths = paths
        self.answers: Counter[int] = Counter()
        """The looks by the status of their answer; 304 says that nothing has changed."""

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the pages open for a block. Raises BenchmarkFailed if one cannot be read."""
        closing = threading.Event()
        errors: list[Exception] = []

        def look(number: int, path: str) -> None:
            visitor, tag, pause = Visitor(self._address), "", INTERVAL * number / len(self._paths)
            try:
                while not closing.wait(pause):
                    status, tag = visitor.get(path, tag)
                    self.answers[status] += 1
                    pause = INTERVAL
            except (OSError, http.client.HTTPException) as error:
                errors.append(error)
            finally:
                visitor.close()

        browsers = [threading.Thread(target=look, args=each) for each in enumerate(self._paths)]
        for browser in browsers:
            browser.start()
        try:
            yield
        finally:
            closing.set()
            for browser in browsers:
                browser.join()
        if errors or self.answers.keys() - {HTTPStatus.OK, HTTPStatus.NOT_MODIFIED}:
            raise BenchmarkFailed(f"pages could not be read: {errors or dict(self.answers)}")


def measure(testbed: Testbed, address: str, flower: int, pids: Mapping[str, int], quick: bool) -> Section:
    """Measure looks at pages of the Flower at an address, whose process is `flower`, beside hops."""
    size = QUICK if quick else FULL
    testbed.client.deploy(no_ops(WORKFLOW, NODES))
    walks = DurableExecutions(testbed, pids, WORKFLOW)
    walks.run(size.at_once, NODES)
    ended = f"/executions/{testbed.client.list(WORKFLOW, limit=1)[0].id}"
    looks = list(_look_figures(testbed, walks, address, flower, ended, size))
    open_pages = OpenPages(address, _paths(ended))
    beside = _throughput_figures(testbed, walks, open_pages, flower, size)
    figures = [*looks, *beside]
    return Section(figures, _method(size, open_pages.answers))


def _paths(ended: str) -> list[str]:
    """Return what each browser shows: most a list that changes, some a page that stays the same."""
    lists = ["/executions", "/executions?status=COMPLETED", f"/executions?workflow={WORKFLOW}"]
    return [*lists, *lists, *[ended] * (BROWSERS - 2 * len(lists))]


def _look_figures(
    testbed: Testbed, walks: DurableExecutions, address: str, flower: int, ended: str, size: Size
) -> Iterator[Figure]:
    pages = {
        "the list": "/executions",
        "the list of a status": "/executions?status=FAILED",
        "an execution": ended,
        "the statistics": "/statistics",
    }
    visitor = Visitor(address)
    hops: list[float] = []
    spent: dict[str, list[float]] = {name: [] for name in pages}
    print_step("looks of open pages, and hops, in turns")
    for _ in range(size.turns):
        hops.append(1000 * walks.run(size.at_once, NODES).processor_seconds_per_hop)
        for name, path in pages.items():
            _, tag = visitor.get(path)
            before = Usage.now(testbed, {"flower": flower})
            for _ in range(size.looks):
                visitor.get(path, tag)
            used = Usage.now(testbed, {"flower": flower}) - before
            total = used.workers.total + used.postgres.total + used.redis.total
            spent[name].append(1000 * total / size.looks)
    yield Figure("processor time of a hop", Spread.of(hops).text("ms"))
    for name, costs in spent.items():
        yield Figure(f"- of a look at {name} that finds nothing new", Spread.of(costs).text("ms"))
        share = 100 * BROWSERS / INTERVAL * statistics.median(costs) / 1000 / CORES
        yield at_most(f"- ten browsers with {name}: share of the machine", share, SHARE_LIMIT, "%")


def _throughput_figures(
    testbed: Testbed, walks: DurableExecutions, pages: OpenPages, flower: int, size: Size
) -> Iterator[Figure]:
    print_step(f"{size.at_once_beside} executions at once, with ten open pages and without, in turns")
    without: list[Batch] = []
    beside: list[Batch] = []
    shares: list[float] = []
    for turn in range(size.turns_beside):
        # Which one is first changes, or what wears off within a turn would be taken for the pages'.
        for has_pages in (turn % 2 == 0, turn % 2 == 1):
            if has_pages:
                before, begin = Usage.now(testbed, {"flower": flower}), time.perf_counter()
                with pages.opened():
                    beside.append(walks.run(size.at_once_beside, NODES))
                used, seconds = Usage.now(testbed, {"flower": flower}) - before, time.perf_counter() - begin
                shares.append(100 * used.workers.total / seconds / CORES)
            else:
                without.append(walks.run(size.at_once_beside, NODES))
    yield Figure(
        "hops a second without a page",
        Spread.of([1 / batch.seconds_per_hop for batch in without]).text(),
    )
    yield ratio_at_least(
        "- throughput with ten open pages, relative to that without",
        Spread.of([1 / ratio for ratio in ratios(beside, without)]),
        THROUGHPUT_LIMIT,
    )
    yield Figure("- share of the machine that Flower took meanwhile", Spread.of(shares).text("%"))


def _method(size: Size, answers: Mapping[int, int]) -> str:
    changed = answers.get(HTTPStatus.OK, 0)
    return (
        f"One worker of {PROCESSES} processes runs batches of executions of {NODES} nodes that do nothing; "
        "in turns with them, one browser asks Flower again and again for a page that has not changed, or for "
        "statistics, which do not ask by themselves. Processor time is of the worker or Flower, Redis and "
        f"Postgres. {BROWSERS} browsers that look every {INTERVAL:g} s take the share of the machine, "
        f"which at saturation is that of the throughput. Then batches of {size.at_once_beside} executions, "
        f"alternating with {BROWSERS} open pages and without, {size.turns_beside} times: six lists in which "
        "these executions appear and four pages of one that has ended. "
        f"{changed:,} of the {sum(answers.values()):,} looks found something new."
    )
