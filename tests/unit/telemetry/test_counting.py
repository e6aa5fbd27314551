"""Counts are shared between the processes of a worker, bounded in number, and never fall."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from workflow_engine.telemetry import counting
from workflow_engine.telemetry.counting import (
    DURATIONS,
    ENDS,
    EVENTS,
    HOPS,
    LABEL_SETS,
    OTHER,
    SECONDS,
    Counts,
    CountsOfWorker,
)
from workflow_engine.telemetry.log_events import LogEvent, log_fields


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CountsOfWorker]:
    """Count in this process and in those that it forks."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    worker = counting.begin()
    yield worker
    counting.stop()


def counts() -> Counts:
    assert counting.active is not None
    return counting.active


def in_a_forked_process(count: object) -> None:
    assert callable(count)
    if (process := os.fork()) == 0:
        count()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)


def test_nothing_is_counted_where_no_worker_has_begun_to() -> None:
    assert counting.active is None
    assert log_fields(LogEvent.COMMIT_REFUSED) == {"event": "commit_refused"}


def test_a_hop_is_counted_by_its_labels_and_its_time_by_buckets(worker: CountsOfWorker) -> None:
    counts().hop("order", "charge", "COMPLETED", 0.02)
    counts().hop("order", "charge", "COMPLETED", 5000)
    counts().hop("order", "charge", "FAILED", 0.02)
    counts().hop("order", "charge", "DROPPED")

    totals = worker.totals()

    assert totals[HOPS.name, ("order", "charge", "COMPLETED")] == [2]
    assert totals[HOPS.name, ("order", "charge", "FAILED")] == [1]
    assert totals[HOPS.name, ("order", "charge", "DROPPED")] == [1]
    *buckets, longer, seconds = totals[DURATIONS.name, ("order", "charge")]
    assert dict(zip(SECONDS, buckets, strict=True))[0.025] == 2
    assert (sum(buckets), longer, round(seconds, 3)) == (2, 1, 5000.04)


def test_what_a_process_has_counted_outlives_it(worker: CountsOfWorker) -> None:
    counts().end("order", "COMPLETED")
    for _ in range(3):
        in_a_forked_process(lambda: counts().end("order", "COMPLETED"))

        assert worker.totals() == worker.totals()

    assert worker.totals()[ENDS.name, ("order", "COMPLETED")] == [4]
    assert len(list(worker.folder.glob("*.names"))) == 1, "files of dead processes add up"


def test_a_forked_process_does_not_count_what_its_parent_did(worker: CountsOfWorker) -> None:
    counts().hop("order", "charge", "COMPLETED", 1)
    in_a_forked_process(lambda: counts().hop("order", "charge", "COMPLETED", 1))

    assert worker.totals()[HOPS.name, ("order", "charge", "COMPLETED")] == [2]


def test_a_process_that_is_started_as_a_program_counts_for_its_worker(worker: CountsOfWorker) -> None:
    def as_a_program() -> None:
        counting.active = None
        counting.join()
        counts().end("order", "FAILED")

    in_a_forked_process(as_a_program)

    assert worker.totals()[ENDS.name, ("order", "FAILED")] == [1]


def test_labels_beyond_the_bound_are_counted_together(worker: CountsOfWorker) -> None:
    for number in range(LABEL_SETS + 500):
        counts().hop(f"tenant-{number}", "charge", "COMPLETED", 0.1)
        in_a_process = number < LABEL_SETS
        counts().end(f"tenant-{number}", "FAILED" if in_a_process else "COMPLETED")

    totals = worker.totals()

    assert totals[HOPS.name, ("tenant-0", "charge", "COMPLETED")] == [1]
    assert totals[HOPS.name, (OTHER, OTHER, "COMPLETED")] == [500]
    assert totals[ENDS.name, (OTHER, "COMPLETED")] == [500]
    assert sum(1 for name, _ in totals if name == HOPS.name) == LABEL_SETS + 1


def test_the_bound_holds_for_all_processes_together_and_no_count_falls(worker: CountsOfWorker) -> None:
    def count(first: int) -> None:
        for number in range(first, first + 600):
            counts().hop(f"tenant-{number}", "charge", "COMPLETED", 0.1)

    before: dict[object, list[float]] = {}
    for first in (0, 600, 300):
        in_a_forked_process(lambda first=first: count(first))
        totals = worker.totals()

        assert all(totals[key] >= numbers for key, numbers in before.items())  # type: ignore[index]
        before = dict(totals)

    of_hops = {labels: numbers for (name, labels), numbers in totals.items() if name == HOPS.name}
    assert len(of_hops) == LABEL_SETS + 1
    assert sum(numbers[0] for numbers in of_hops.values()) == 1800


def test_threads_do_not_lose_each_others_counts(worker: CountsOfWorker) -> None:
    def count() -> None:
        for _ in range(5000):
            counts().hop("order", "charge", "COMPLETED", 0.1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert worker.totals()[HOPS.name, ("order", "charge", "COMPLETED")] == [20_000]


def test_a_log_line_is_counted_whatever_the_level_of_the_log(worker: CountsOfWorker) -> None:
    log_fields(LogEvent.LOCK_TAKEN_OVER)

    assert worker.totals()[EVENTS.name, ("lock_taken_over",)] == [1]


def test_a_full_disk_costs_counts_and_nothing_else(
    worker: CountsOfWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", is_full)
        counts().hop("order", "charge", "COMPLETED", 0.1)
    counts().hop("order", "charge", "COMPLETED", 0.1)

    assert worker.totals()[HOPS.name, ("order", "charge", "COMPLETED")] == [1]
    assert len(list(worker.folder.iterdir())) == 2


def test_the_folder_of_a_killed_worker_is_removed_by_the_next(worker: CountsOfWorker) -> None:
    in_a_forked_process(counting.begin)
    own, left = worker.folder, set(worker.folder.parent.iterdir()) - {worker.folder}
    assert len(left) == 1

    following = counting.begin()

    assert set(own.parent.iterdir()) == {own, following.folder}
