"""An interruption ends the run it is meant for, once, and no other."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from workflow_engine.runner.interruption import NodeInterrupted, call_interruptibly, interrupt


def busy(seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        pass


@contextmanager
def insisting_on(token: str) -> Iterator[None]:
    """Interrupt the run of this token from another thread, for as long as it can."""
    is_over = threading.Event()

    def insist() -> None:
        while not is_over.is_set():
            interrupt(token)
            time.sleep(0.001)

    thread = threading.Thread(target=insist)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_a_sleeping_node_is_interrupted() -> None:
    started = time.monotonic()

    with insisting_on("this"), pytest.raises(NodeInterrupted):
        call_interruptibly("this", lambda: time.sleep(10))

    assert time.monotonic() - started < 5


def test_what_a_node_does_against_failures_does_not_keep_it_running() -> None:
    def tries_again() -> None:
        while True:
            with suppress(Exception):
                time.sleep(10)

    with insisting_on("this"), pytest.raises(NodeInterrupted):
        call_interruptibly("this", tries_again)


def test_a_node_that_cleans_up_is_not_interrupted_again() -> None:
    cleaned_up = []

    def node() -> None:
        try:
            time.sleep(10)
        finally:
            busy(0.05)
            cleaned_up.append(True)

    with insisting_on("this"), pytest.raises(NodeInterrupted):
        call_interruptibly("this", node)

    assert cleaned_up == [True]


def test_a_run_of_another_token_is_left_alone() -> None:
    with insisting_on("that"):
        assert call_interruptibly("this", lambda: busy(0.05)) is None


def test_interruptions_aimed_at_nodes_that_end_at_that_moment_hit_no_other() -> None:
    tokens = [str(number) for number in range(600)]
    delays = itertools.cycle([0.0, 0.0005, 0.001, 0.0015])
    present = tokens[0]
    is_over = threading.Event()

    def aim() -> None:
        while not is_over.is_set():
            token = present  # may be over by the time it is named
            time.sleep(next(delays))
            if int(token) % 2 == 0:
                interrupt(token)

    thread = threading.Thread(target=aim)
    thread.start()
    hits = []
    try:
        for present in tokens:  # the thread reads it
            try:
                call_interruptibly(present, lambda: time.sleep(0.001))
            except NodeInterrupted:
                hits.append(present)
            busy(0.00005)  # between two nodes nothing may be raised either
    finally:
        is_over.set()
        thread.join()

    assert hits, "none was hit in time, which shows nothing"
    assert all(int(token) % 2 == 0 for token in hits)


def test_outside_the_main_thread_a_node_is_not_interrupted() -> None:
    answers: list[object] = []

    def elsewhere() -> None:
        answers.append(call_interruptibly("this", lambda: interrupt("this")))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()

    assert answers == [False]
