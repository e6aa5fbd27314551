"""Counts of what a worker does, kept in files that its processes share: one of numbers for each process.

A process adds to its own file, which is mapped into its memory. So counting costs no call of the system, and
what a process has counted outlives it. The worker's main process sums up the files of all its processes, and
keeps the sums of those that have died: no count ever falls while the worker runs.

Nothing is counted before `begin` is called, which a worker does where metrics are served.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from workflow_engine.telemetry.processes import exists, namespace

LABEL_SETS = 1000
"""Sets of labels that a metric may have; further ones are counted together, under `OTHER`."""

OTHER = "other"

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
"""Upper bounds of the buckets of a histogram; one more bucket takes what is longer."""

FOLDER_VARIABLE = "WORKFLOW_ENGINE_COUNTS_FOLDER"
"""The environment variable by which a worker's main process names the folder to those of its pool."""

PREFIX = "workflow-engine-counts-"
FOLDER = re.compile(rf"{PREFIX}(\d{{1,9}})-(\d+)-.*")
"""The name of such a folder: the process of the worker that made it, and the namespace of that number."""


@dataclass(frozen=True)
class Metric:
    """A family of counts, which differ in their labels."""

    name: str
    meaning: str
    labels: tuple[str, ...]
    folded: tuple[str, ...] = ()
    """The labels whose values become `OTHER` once there are too many sets."""
    buckets: tuple[float, ...] = ()
    """The bounds of a histogram's buckets; none for a counter."""

    @property
    def numbers(self) -> int:
        """The numbers kept for each set of labels: of a histogram its buckets and the sum."""
        return len(self.buckets) + 2 if self.buckets else 1

    def folded_labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels under which a set is counted that is one too many."""
        pairs = zip(self.labels, labels, strict=True)
        return tuple(OTHER if name in self.folded else value for name, value in pairs)


HOPS = Metric(
    "workflow_engine_hops",
    "Messages and inline steps that the worker has served, by what became of their node.",
    ("workflow", "node", "outcome"),
    folded=("workflow", "node"),
)
DURATIONS = Metric(
    "workflow_engine_node_duration_seconds",
    "Time that nodes ran, from evaluating their config to their result.",
    ("workflow", "node"),
    folded=("workflow", "node"),
    buckets=SECONDS,
)
ENDS = Metric(
    "workflow_engine_executions_ended",
    "Executions that have ended with a node's commit, by their status.",
    ("workflow", "status"),
    folded=("workflow",),
)
EVENTS = Metric(
    "workflow_engine_events",
    "Log lines of the engine by their event, whether or not the level of the log lets them through.",
    ("event",),
)
METRICS = {metric.name: metric for metric in (HOPS, DURATIONS, ENDS, EVENTS)}

ROOM_FOR_FOLDED = 50
"""Sets of labels of a metric that stay apart even when folded: one for each outcome or status."""

NOWHERE = sum((LABEL_SETS + ROOM_FOR_FOLDED) * metric.numbers for metric in METRICS.values())
"""The position behind all counts, for numbers that cannot be kept."""

ROOM = 8 * (NOWHERE + len(SECONDS) + 2)
"""The bytes of a file of numbers."""

Totals = dict[tuple[str, tuple[str, ...]], list[float]]
"""The numbers of each metric and set of labels."""


class Counts:
    """The counts of this process. Methods may be called by any thread, and raise nothing."""

    _names: int | None
    """The descriptor of the file of names; None before the first count."""
    _numbers: memoryview[float]
    _used: int

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open()
        os.register_at_fork(after_in_child=self._leave_to_parent)

    def hop(self, workflow: str, node: str, outcome: str, seconds: float | None = None) -> None:
        """Count a hop, and the time that its node ran, if it did."""
        try:
            hop, duration = self._hops[workflow, node, outcome]
        except KeyError:
            hop = self._place(HOPS, (workflow, node, outcome))
            duration = self._place(DURATIONS, (workflow, node))
            if NOWHERE not in (hop, duration):
                self._hops[workflow, node, outcome] = hop, duration
        numbers = self._numbers
        with self._lock:
            numbers[hop] += 1
            if seconds is not None:
                numbers[duration + bisect_left(SECONDS, seconds)] += 1
                numbers[duration + len(SECONDS) + 1] += seconds

    def end(self, workflow: str, status: str) -> None:
        """Count the end of an execution."""
        self._add(ENDS, (workflow, status))

    def event(self, event: str, by: int = 1) -> None:
        """Count an event; `by` 0 only makes its count known."""
        self._add(EVENTS, (event,), by)

    def _add(self, metric: Metric, labels: tuple[str, ...], by: int = 1) -> None:
        place = self._place(metric, labels)
        with self._lock:
            self._numbers[place] += by

    def _place(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """Return the position of the first number of a set of labels; `NOWHERE` while the disk is full."""
        places = self._places[metric.name]
        if (place := places.get(labels)) is not None:
            return place
        if len(places) >= LABEL_SETS:
            labels = metric.folded_labels(labels)
        with self._lock:
            if (place := places.get(labels)) is None:
                try:
                    place = places[labels] = self._new_place(metric, labels)
                except OSError:
                    return NOWHERE
        return place

    def _new_place(self, metric: Metric, labels: tuple[str, ...]) -> int:
        if self._names is None:
            self._names, self._numbers = _new_files(self.folder)
        # Before any number, so that none is ever without a name.
        os.write(self._names, json.dumps([metric.name, *labels]).encode() + b"\n")
        place, self._used = self._used, self._used + metric.numbers
        return place

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._names = None
        self._numbers = memoryview(bytearray(ROOM)).cast("d")
        self._used = 0
        self._hops: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._places: dict[str, dict[tuple[str, ...], int]] = {name: {} for name in METRICS}

    def _leave_to_parent(self) -> None:
        """Count into a file of its own, in a forked process."""
        if self._names is not None:
            os.close(self._names)
        self._open()


def _new_files(folder: Path) -> tuple[int, memoryview[float]]:
    """Make the files of this process; return the one of names, and the memory of its numbers."""
    numbers, path = tempfile.mkstemp(".numbers", f"{os.getpid()}-", folder)
    try:
        # A page that the disk has no room for would end the process when it is first written to.
        os.posix_fallocate(numbers, 0, ROOM)
        mapped = mmap.mmap(numbers, ROOM)
        names = os.open(Path(path).with_suffix(".names"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        Path(path).unlink()
        raise
    finally:
        os.close(numbers)
    return names, memoryview(mapped).cast("d")


@dataclass
class CountsOfWorker:
    """The counts of all processes that a worker has had, as its main process reads them."""

    folder: Path
    _of_the_dead: Totals = field(default_factory=dict)
    _known: dict[str, set[tuple[str, ...]]] = field(default_factory=lambda: {name: set() for name in METRICS})
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def totals(self) -> Totals:
        """Return the sums over all processes, with no more than `LABEL_SETS` sets of labels each."""
        with self._guard:
            totals: Totals = {}
            for path, process in _files(self.folder):
                has_died = not exists(process)  # before reading, so that nothing is counted afterwards
                counts = dict(_read(path))
                _add_to(self._of_the_dead if has_died else totals, counts)
                if has_died:
                    path.unlink(missing_ok=True)
                    path.with_suffix(".numbers").unlink(missing_ok=True)
            _add_to(totals, self._of_the_dead)
            return self._folded(totals)

    def _folded(self, totals: Totals) -> Totals:
        """Fold what is one too many. What was shown once stays apart, so that no count falls."""
        folded: Totals = {}
        for (name, labels), numbers in totals.items():
            known = self._known[name]
            if labels not in known and len(known) < LABEL_SETS:
                known.add(labels)
            shown = labels if labels in known else METRICS[name].folded_labels(labels)
            _add_to(folded, {(name, shown): numbers})
        return folded

    def remove(self) -> None:
        """Remove the folder, once the worker has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _add_to(totals: Totals, counts: Mapping[tuple[str, tuple[str, ...]], list[float]]) -> None:
    for key, numbers in counts.items():
        before = totals.get(key)
        totals[key] = numbers if before is None else [a + b for a, b in zip(before, numbers, strict=True)]


def _read(names: Path) -> Iterator[tuple[tuple[str, tuple[str, ...]], list[float]]]:
    """Yield the counts of one process."""
    lines = names.read_bytes()
    numbers = memoryview(names.with_suffix(".numbers").read_bytes()).cast("d")
    place = 0
    for line in lines[: lines.rfind(b"\n") + 1].splitlines():
        name, *labels = json.loads(line)
        following = place + METRICS[name].numbers
        yield (name, tuple(labels)), [float(number) for number in numbers[place:following]]
        place = following


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files of names, with the process of each."""
    for path in folder.glob("*.names"):
        yield path, int(path.name.partition("-")[0])


active: Counts | None = None
"""The counts of this process; None where nothing is counted."""


def begin() -> CountsOfWorker:
    """Count from now on, in this process and in those that it starts. Raises OSError."""
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{namespace()}-"))
    os.environ[FOLDER_VARIABLE] = str(folder)
    join()
    return CountsOfWorker(folder)


def join() -> None:
    """Count in this process too, if the worker that has started it counts."""
    global active  # noqa: PLW0603 - one for the process, as its log is
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder and (active is None or active.folder != Path(folder)):
        active = Counts(Path(folder))


def stop() -> None:
    """Count nothing from now on."""
    global active  # noqa: PLW0603
    active = None
    os.environ.pop(FOLDER_VARIABLE, None)


def _remove_leftovers() -> None:
    """Remove the folders of this user's workers that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        match = FOLDER.fullmatch(path.name)
        if match is None or match[2] != str(namespace()) or exists(int(match[1])):
            continue
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
