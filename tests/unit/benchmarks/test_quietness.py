"""A benchmark says how quiet its machine was, and a neighbour of its own does not count as a disturbance."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.neighbour import busy_neighbour
from benchmarks.processor_time import of_the_tree
from benchmarks.quietness import QUIET, Load
from support.polling import poll


def load(others: float) -> Load:
    """Return the load of ten seconds in which others used so many cores."""
    return Load(seconds=10, machine=5 + 10 * others, own=5, switches=20_000)


def test_a_quiet_machine_is_described_by_its_load_and_context_switches() -> None:
    text = load(QUIET / 2).text()

    assert text.startswith(f"Other processes used 0.05 of {psutil.cpu_count()} cores meanwhile")
    assert "switched contexts 2,000 times a second" in text


def test_a_machine_that_others_use_is_said_not_to_be_quiet() -> None:
    assert not load(1.25).is_quiet
    assert load(1.25).text().startswith("**The machine was not quiet**")
    assert "Other processes used 1.25 of" in load(1.25).text()


def test_processes_that_a_benchmark_starts_are_its_own_also_once_they_have_ended() -> None:
    before = of_the_tree(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)

    assert of_the_tree(os.getpid()) > before


@pytest.fixture
def neighbours() -> Iterator[list[psutil.Process]]:
    before = set(psutil.Process().children())
    with busy_neighbour(seconds=30) as number:
        processes = [each for each in psutil.Process().children() if each not in before]
        assert len(processes) == number == psutil.cpu_count()
        yield processes


def test_a_busy_neighbour_uses_processor_time_until_its_block_ends(neighbours: list[psutil.Process]) -> None:
    poll(
        lambda: all(sum(each.cpu_times()[:2]) > 0.2 for each in neighbours),
        "each process uses processor time",
    )


def test_a_busy_neighbour_ends_with_its_block_and_by_itself() -> None:
    before = set(psutil.Process().children())
    with busy_neighbour(seconds=0.01):
        processes = [each for each in psutil.Process().children() if each not in before]
        assert all(each.wait(timeout=20) in (0, None) for each in processes)
    with busy_neighbour(seconds=30):
        processes = [each for each in psutil.Process().children() if each not in before]

    assert not any(each.is_running() for each in processes)
