"""A node's alarm rings in the node, once, and never after it."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from workflow_engine.time_limits import NodeTimedOut, limited


def test_a_node_that_runs_too_long_is_interrupted() -> None:
    started = time.monotonic()

    with pytest.raises(NodeTimedOut, match=r"longer than its timeout of 0\.05 s"):
        limited(0.05, lambda: time.sleep(10))

    assert time.monotonic() - started < 5


@pytest.fixture
def no_alarm() -> Iterator[None]:
    """No alarm is armed; that of the test runner is put back afterwards."""
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, left, interval)


@pytest.mark.usefixtures("no_alarm")
def test_after_a_node_the_alarm_of_others_is_theirs_again() -> None:
    def theirs(signum: int, frame: object) -> None: ...

    signal.signal(signal.SIGALRM, theirs)
    assert 0 < limited(60, lambda: signal.getitimer(signal.ITIMER_REAL)[0]) <= 60
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) is theirs

    signal.setitimer(signal.ITIMER_REAL, 500)
    limited(60, lambda: None)
    assert 490 < signal.getitimer(signal.ITIMER_REAL)[0] <= 500


def test_an_alarm_aimed_at_a_node_that_ends_at_that_moment_hits_no_other() -> None:
    def busy(seconds: float) -> None:
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            pass

    hits = 0
    for _ in range(300):
        try:
            limited(0.001, lambda: busy(0.001))
        except NodeTimedOut:
            hits += 1
        # The next node, which has no timeout: nothing may ring in it.
        limited(None, lambda: busy(0.002))

    assert 0 < hits <= 300


@pytest.mark.usefixtures("no_alarm")
def test_without_a_timeout_and_outside_the_main_thread_nothing_is_armed() -> None:
    assert limited(None, lambda: signal.getitimer(signal.ITIMER_REAL)[0]) == 0

    armed: list[float] = []

    def elsewhere() -> None:
        armed.append(limited(60, lambda: signal.getitimer(signal.ITIMER_REAL)[0]))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert armed == [0]


def test_what_ignores_the_alarm_loses_its_process_even_while_it_holds_the_interpreter() -> None:
    program = (
        "from workflow_engine import time_limits\n"
        "time_limits.GRACE = 0.1\n"
        # The call stays in C, which looks at no signals and keeps the interpreter.
        "time_limits.limited(0.1, lambda: sum(range(10**12)))\n"
    )
    started = time.monotonic()

    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, check=False)

    assert ended.returncode == 1
    assert "Timeout" in ended.stderr
    assert time.monotonic() - started < 15
