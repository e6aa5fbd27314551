"""What threads ask for while it is done for another of them is done together next."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from support.polling import poll
from workflow_engine.execution.gathering import Gathering, PassOn


class Counter:
    """Serves groups of items; each group takes until it `may_end`."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.may_end = threading.Event()
        self.passes_on = False
        self.gathering: Gathering[str] = Gathering()

    def serve(self, items: Sequence[str], pass_on: PassOn) -> None:
        self.groups.append(list(items))
        if self.passes_on:
            pass_on()
        assert self.may_end.wait(20)
        if "bad" in items:
            raise ValueError("bad")

    def ask(self, item: str) -> None:
        self.gathering.served("key", item, self.serve)


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def threads(counter: Counter) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads
        counter.may_end.set()


def ask(counter: Counter, threads: ThreadPoolExecutor, *items: str) -> list[Future[None]]:
    """Have a thread ask for each item, the others while the first is being served."""
    asked = [threads.submit(counter.ask, items[0])]
    poll(lambda: counter.groups, "the first is being served")
    for number, item in enumerate(items[1:], 1):
        asked.append(threads.submit(counter.ask, item))
        poll(lambda number=number: counter.gathering.waiting("key") == number, "the next waits")
    return asked


def test_threads_wait_until_their_item_was_served(counter: Counter, threads: ThreadPoolExecutor) -> None:
    asked = ask(counter, threads, "a", "b", "c")
    assert not any(each.done() for each in asked)

    counter.may_end.set()

    assert [each.result(20) for each in asked] == [None] * 3
    assert counter.groups == [["a"], ["b", "c"]]


def test_an_error_is_raised_in_one_thread_of_the_group(counter: Counter, threads: ThreadPoolExecutor) -> None:
    asked = ask(counter, threads, "a", "bad", "c")

    counter.may_end.set()

    assert [type(each.exception(20)) for each in asked] == [type(None), ValueError, type(None)]
    counter.ask("after it")
    assert counter.groups[-1] == ["after it"]


def test_the_next_group_begins_where_the_one_before_passes_on(
    counter: Counter, threads: ThreadPoolExecutor
) -> None:
    counter.passes_on = True
    first = threads.submit(counter.ask, "a")
    poll(lambda: counter.groups == [["a"]], "the first is being served")

    second = threads.submit(counter.ask, "b")

    poll(lambda: counter.groups == [["a"], ["b"]], "the second is being served as well")
    assert not first.done()
    counter.may_end.set()
    assert [first.result(20), second.result(20)] == [None, None]
