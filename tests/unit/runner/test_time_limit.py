"""A node's alarm rings in the node, once, and never after it."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from workflow_engine.nodes.contract import NodeTimedOut
from workflow_engine.runner import time_limit
from workflow_engine.runner.time_limit import weakness_of_pool, with_time_limit


def test_a_node_that_runs_too_long_is_interrupted() -> None:
    started = time.monotonic()

    with pytest.raises(NodeTimedOut, match=r"longer than its timeout of 0\.05 s"):
        with_time_limit(0.05, lambda: time.sleep(10))

    assert time.monotonic() - started < 5


@pytest.fixture
def no_alarm() -> Iterator[None]:
    """Run without an armed alarm; restore the test runner's afterwards."""
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, left, interval)


@pytest.mark.usefixtures("no_alarm")
def test_after_a_node_the_alarm_of_others_is_theirs_again() -> None:
    def theirs(signum: int, frame: object) -> None: ...

    signal.signal(signal.SIGALRM, theirs)
    assert 0 < with_time_limit(60, lambda: signal.getitimer(signal.ITIMER_REAL)[0]) <= 60
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) is theirs

    signal.setitimer(signal.ITIMER_REAL, 500)
    with_time_limit(60, lambda: None)
    assert 490 < signal.getitimer(signal.ITIMER_REAL)[0] <= 500


def test_an_alarm_aimed_at_a_node_that_ends_at_that_moment_hits_no_other() -> None:
    def busy(seconds: float) -> None:
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            pass

    hits = 0
    for _ in range(300):
        try:
            with_time_limit(0.001, lambda: busy(0.001))
        except NodeTimedOut:
            hits += 1
        # The next node, which has no timeout: nothing may ring in it.
        with_time_limit(None, lambda: busy(0.002))

    assert 0 < hits <= 300


@pytest.mark.usefixtures("no_alarm")
def test_without_a_timeout_nothing_is_armed() -> None:
    assert with_time_limit(None, lambda: signal.getitimer(signal.ITIMER_REAL)[0]) == 0


# -- where nodes do not run in the main thread -----------------------------------------------------------


def elsewhere(call: Callable[[], Any]) -> Any:
    """Call in another thread, as a pool of threads does, and return the result or the error."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(30)


VARIABLE: ContextVar[str] = ContextVar("variable")


def test_in_another_thread_a_node_has_its_result_its_errors_and_its_context_variables() -> None:
    def node() -> str:
        return VARIABLE.get() + threading.current_thread().name

    def task() -> str:
        VARIABLE.set("known to ")
        return with_time_limit(60, node)

    def fails() -> None:
        raise KeyError("its own")

    assert elsewhere(task) == "known to timed-node"
    with pytest.raises(KeyError, match="its own"):
        elsewhere(lambda: with_time_limit(60, fails))
    with pytest.raises(SystemExit):
        elsewhere(lambda: with_time_limit(60, sys.exit))


def test_in_another_thread_a_node_past_its_timeout_is_interrupted_and_may_clean_up() -> None:
    cleaned_up = threading.Event()

    def node() -> None:
        try:
            while True:
                time.sleep(0.01)
        finally:
            cleaned_up.set()

    with pytest.raises(NodeTimedOut, match=r"longer than its timeout of 0\.05 s$"):
        elsewhere(lambda: with_time_limit(0.05, node))

    assert cleaned_up.is_set()


def test_in_another_thread_a_node_that_does_not_stop_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "GRACE", 0.1)
    let_go, has_gone_on = threading.Event(), threading.Event()

    def node() -> None:
        with suppress(NodeTimedOut):
            while not let_go.wait(0.01):
                pass
        let_go.wait()
        has_gone_on.set()

    with pytest.raises(NodeTimedOut, match=r"of 0\.05 s; it did not stop and continues in the background"):
        elsewhere(lambda: with_time_limit(0.05, node))

    assert not has_gone_on.is_set()
    let_go.set()
    assert has_gone_on.wait(30)


def test_in_another_thread_a_timeout_at_the_moment_in_which_a_node_ends_hits_no_other() -> None:
    def task() -> tuple[int, int]:
        hits, before = 0, threading.active_count()
        for _ in range(300):
            try:
                with_time_limit(0.001, lambda: time.sleep(0.001))
            except NodeTimedOut:
                hits += 1
            with_time_limit(None, lambda: time.sleep(0.0001))
        return hits, threading.active_count() - before

    hits, left = elsewhere(task)

    assert 0 <= hits <= 300
    assert left < 20, "threads are left although their nodes have ended"


@pytest.mark.parametrize("pool", ["solo", "threads", "gevent", "eventlet"])
def test_a_pool_that_cannot_end_every_node_is_known(pool: str) -> None:
    assert "ignores its timeout" in (weakness_of_pool(pool) or "")


def test_prefork_ends_every_node() -> None:
    assert weakness_of_pool("prefork") is None


# -- and where they do -----------------------------------------------------------------------------------


def test_a_node_that_ignores_the_alarm_loses_its_process_even_while_it_holds_the_interpreter() -> None:
    program = (
        "from workflow_engine.runner import time_limit\n"
        "time_limit.GRACE = 0.1\n"
        # The call stays in C, which handles no signals and keeps the interpreter.
        "time_limit.with_time_limit(0.1, lambda: sum(range(10**12)))\n"
    )
    started = time.monotonic()

    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False)

    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert time.monotonic() - started < 15


def test_a_soft_limit_is_raised_inside_the_call_which_may_go_on_until_the_hard_one() -> None:
    def tidy_up() -> str:
        with suppress(InterruptedError):
            time.sleep(5)
        return "tidied up"

    def ignore() -> None:
        with suppress(InterruptedError):
            time.sleep(5)
        time.sleep(5)

    assert with_time_limit(5, tidy_up, soft=0.05, soft_error=InterruptedError) == "tidied up"
    assert with_time_limit(None, tidy_up, soft=0.05, soft_error=InterruptedError) == "tidied up"
    with pytest.raises(NodeTimedOut, match=r"longer than its timeout of 0\.15 s"):
        with_time_limit(0.15, ignore, soft=0.05, soft_error=InterruptedError)


def test_a_soft_limit_that_is_no_shorter_than_the_hard_one_has_no_effect() -> None:
    with pytest.raises(NodeTimedOut):
        with_time_limit(0.05, lambda: time.sleep(5), soft=0.05, soft_error=InterruptedError)
