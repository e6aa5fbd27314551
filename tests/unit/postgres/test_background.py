"""A call that may hang is made in another thread, and its caller waits only so long."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from support.polling import poll
from workflow_engine.postgres.background import Background


@pytest.fixture
def background() -> Background:
    return Background("do what may hang")


def test_a_call_that_is_over_in_time_is_done(background: Background) -> None:
    made_in: list[str] = []

    assert background.done_within(10, lambda: made_in.append(threading.current_thread().name))
    assert made_in == ["do what may hang"]


def test_a_late_call_goes_on_and_others_are_refused_until_it_is_over(
    background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    let_go, made = threading.Event(), []
    caplog.set_level(logging.WARNING)

    def late() -> None:
        let_go.wait(30)
        made.append("late")

    assert not background.done_within(0.05, late)
    for _ in range(3):
        assert not background.done_within(10, lambda: made.append("refused"))
    assert len(caplog.messages) == 1

    let_go.set()
    poll(lambda: background.done_within(10, lambda: made.append("next")), "calls are made again")
    assert made == ["late", "next"]


def test_a_call_waits_for_those_before_it(background: Background) -> None:
    made: list[int] = []
    together = threading.Barrier(8)

    def ask(number: int) -> None:
        together.wait()
        assert background.done_within(10, lambda: made.append(number))

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(made) == list(range(8))


def test_what_a_call_raises_is_logged_and_harms_no_other(
    background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    assert background.done_within(10, lambda: 1 / 0)
    assert background.done_within(10, lambda: None)

    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "Failed to do what may hang.")
    ]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_thread_of_its_own_even_if_the_parents_is_late(background: Background) -> None:
    let_go = threading.Event()
    assert not background.done_within(0.05, lambda: let_go.wait(30))

    if (child := os.fork()) == 0:
        os._exit(0 if background.done_within(10, lambda: None) else 1)
    let_go.set()

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
