"""The first command of the README shows what it promises and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg2
import pytest

from workflow_engine import demo
from workflow_engine.errors import EmbeddedServerFailed

ORDERS = 20
TIMEOUT = 60.0
# A program that runs the tests in the background may have set the signals to be ignored.
COMMAND_LINE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from workflow_engine.cli import main; main()"
)


class RunningDemo:
    """The demo as a process, with every process that it has ever had below it."""

    def __init__(self, scratch: Path, orders: int, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND_LINE, "demo", "--once", "--orders", str(orders)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
        )
        self.scratch = scratch
        self.family: set[psutil.Process] = set()
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self) -> int:
        """Wait for the process, and return its exit status."""
        self.until(lambda: self.process.poll() is not None, "the demo has ended")
        self._reader.join(TIMEOUT)
        return self.process.returncode

    def until_it_says(self, words: str) -> None:
        self.until(lambda: any(words in line for line in self.output), f"the demo says {words!r}")

    def until(self, condition: Callable[[], bool], description: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, f"not within {TIMEOUT:g} s: {description}\n{self.text}"
            self._meet_family()
            time.sleep(0.05)

    def alive(self) -> list[psutil.Process]:
        """Return the processes of its family that are still alive, a moment after the kernel's signal."""
        deadline = time.monotonic() + 10
        while (alive := [each for each in self.family if not gone(each)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive

    @property
    def text(self) -> str:
        return "".join(self.output)

    def _meet_family(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self.family.update(psutil.Process(self.process.pid).children(recursive=True))

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.output.extend(iter(self.process.stdout.readline, ""))


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Return a folder for the demo, outside of pytest's own, which another user may not enter."""
    with tempfile.TemporaryDirectory(prefix="demo-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_order_waits_retries_and_completes_and_nothing_is_left_behind_but_what_was_there(
    scratch: Path, database_url: str
) -> None:
    running = RunningDemo(scratch, ORDERS, WORKFLOW_ENGINE_DATABASE_URL=database_url)

    assert running.wait() == 0, running.text
    assert f"{ORDERS} of {ORDERS} executions COMPLETED" in running.text
    # A pool may have replaced a process in between, and programs may run others for an instant.
    assert len(running.family) >= 1 + 1 + 2 * (1 + 2), "Redis, Flower and the workers were seen"
    assert running.alive() == []
    assert left_in(scratch) == []
    with closing(psycopg2.connect(database_url.replace("+psycopg2", ""))) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT status, count(*) FROM executions GROUP BY status")
        assert cursor.fetchall() == [("COMPLETED", ORDERS)]
        cursor.execute("SELECT count(DISTINCT worker) FROM node_executions GROUP BY execution_id")
        assert max(processes for (processes,) in cursor.fetchall()) > 1
        cursor.execute("SELECT wait_type, count(*) FROM execution_wait_states GROUP BY wait_type")
        waits = dict(cursor.fetchall())
        assert waits["EVENTS"] == ORDERS
        assert waits["DELAY"] >= 1, "an order waited for the supplier"
        assert waits["RETRY"] >= 1, "a payment was tried again"
        cursor.execute(
            "SELECT count(*) FROM execution_events e JOIN node_executions n USING (execution_id, seq) "
            "WHERE e.created_at < n.started_at"
        )
        assert cursor.fetchall()[0][0] >= 1, "a payment was confirmed before it was waited for"
    assert f"waited {ORDERS} times for a payment" in running.text
    assert "the provider is busy" in running.text, "the way of an order shows an attempt that failed"


@pytest.mark.parametrize(
    ("moment", "signum", "status"),
    [
        ("Starting Postgres, Redis", signal.SIGINT, 130),
        ("orders started", signal.SIGTERM, 143),
    ],
)
def test_told_to_end_it_takes_everything_with_it(
    moment: str, signum: signal.Signals, status: int, scratch: Path
) -> None:
    running = RunningDemo(scratch, 500)
    running.until_it_says(moment)

    running.process.send_signal(signum)

    assert running.wait() == status, running.text
    assert running.alive() == []
    assert left_in(scratch) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_killed_outright_its_processes_end_all_the_same(scratch: Path) -> None:
    running = RunningDemo(scratch, 500)
    running.until_it_says("Deployed order-fulfilment")

    running.process.kill()

    running.wait()
    assert running.alive() == []


def test_a_machine_without_servers_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: object) -> None:
        raise EmbeddedServerFailed("Postgres", "there is no Postgres to start on this machine")

    monkeypatch.setattr("workflow_engine.embedded.EmbeddedPostgres.start", refuse)

    assert demo.run(once=True, orders=1) == 1
    assert "The demo failed: there is no Postgres to start" in capsys.readouterr().out
