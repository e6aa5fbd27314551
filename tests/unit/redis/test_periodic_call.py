"""A periodic call goes on as long as its object lives, in the process that began it and in no other."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from support.polling import poll
from workflow_engine.redis.periodic_call import PeriodicCall, call_in_children

NAME = "counting"


class Counter:
    def __init__(self, *, fails: bool = False) -> None:
        self.count = 0
        self.fails = fails
        self.counting = PeriodicCall(NAME, 0.01, self.increase)

    def increase(self) -> None:
        self.count += 1
        if self.fails:
            raise RuntimeError("no more")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture(autouse=True)
def _all_threads_end() -> None:
    gc.collect()
    poll(lambda: not threads(), "threads of tests before have ended")


def test_it_is_made_again_and_again_by_one_thread() -> None:
    counter = Counter()
    for _ in range(3):
        counter.counting.start()

    poll(lambda: counter.count > 2, "it has been made three times")
    assert len(threads()) == 1


def test_nothing_is_called_before_it_is_started() -> None:
    Counter()

    assert threads() == []


def test_its_thread_ends_with_the_object_that_it_serves() -> None:
    def begin() -> None:
        counter = Counter()
        counter.counting.start()
        poll(lambda: counter.count, "it has been made")

    begin()
    gc.collect()

    poll(lambda: not threads(), "its thread has ended")


def test_a_call_that_fails_is_logged_and_made_again(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter(fails=True)
    counter.counting.start()

    poll(lambda: counter.count > 1, "it has been made twice")
    assert caplog.messages[0] == "A round of counting failed; continuing"


def test_a_forked_child_has_to_begin_by_itself() -> None:
    counter = Counter()
    counter.counting.start()

    if (child := os.fork()) == 0:
        before = len(threads())
        counter.counting.start()
        os._exit(0 if (before, len(threads())) == (0, 1) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_children_call_keeps_no_object_alive() -> None:
    called: list[str] = []

    class Witness:
        def __init__(self, name: str) -> None:
            self.name = name
            call_in_children(self.see)

        def see(self) -> None:
            called.append(self.name)

    gone, there = Witness("gone"), Witness("there")
    del gone
    gc.collect()

    if (child := os.fork()) == 0:
        os._exit(0 if called == [there.name] else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
