"""A small file shows a supervisor whether the worker beside it does its work."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.command_line import run
from support.polling import poll
from workflow_engine.health.heartbeat import TIMEOUT, HeartbeatFile, folder, heartbeats, remove_leftovers
from workflow_engine.worker.steps import liveness


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def worker() -> HeartbeatFile:
    """Return the heartbeat of this process."""
    return HeartbeatFile("celery@here")


def is_alive(*options: str) -> tuple[int, str]:
    result = run("health", "--live", *options)
    return result.exit_code, result.output


def without_seconds(output: str) -> str:
    """Return an output without the seconds since the heartbeat, which depend on the machine."""
    return re.sub(r"\d s ago", "… s ago", output)


def age_by(worker: HeartbeatFile, seconds: float) -> None:
    worker.beat()
    worker.path.write_text(json.dumps({"worker": "celery@here", "at": time.monotonic() - seconds}))


def test_a_worker_with_a_heartbeat_is_alive(worker: HeartbeatFile) -> None:
    worker.beat()

    status, output = is_alive()

    assert status == 0
    assert without_seconds(output) == f"ok  celery@here (process {os.getpid()}): alive, … s ago\n"


def test_without_a_heartbeat_no_worker_is_alive(worker: HeartbeatFile) -> None:
    assert is_alive() == (1, f"NO  Worker: no heartbeat in {folder()}\n")


def test_a_worker_whose_heartbeat_has_stopped_is_not_alive(worker: HeartbeatFile) -> None:
    age_by(worker, TIMEOUT + 1)

    status, output = is_alive()

    assert status == 1
    assert f"no heartbeat for {TIMEOUT + 1:.0f} s" in output


def test_a_heartbeat_of_before_the_machine_started_counts_as_none(worker: HeartbeatFile) -> None:
    age_by(worker, -1000)

    assert is_alive()[0] == 1


def test_a_worker_is_asked_for_by_its_whole_name_or_the_first_part(worker: HeartbeatFile) -> None:
    worker.beat()

    assert is_alive("--worker", "celery")[0] == 0
    assert is_alive("--worker", "celery@here")[0] == 0
    assert is_alive("--worker", "other") == (1, f"NO  other: no heartbeat in {folder()}\n")


def left_by_a_killed_worker(worker: HeartbeatFile) -> Path:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = worker.path.with_name(worker.path.name.replace(str(os.getpid()), str(child.pid), 1))
    left.write_text(json.dumps({"worker": "killed@here", "at": time.monotonic()}))
    return left


def test_what_a_killed_worker_left_is_ignored_and_removed_by_the_next(worker: HeartbeatFile) -> None:
    worker.beat()
    left = left_by_a_killed_worker(worker)

    assert [beat.worker for beat in heartbeats()] == ["celery@here"]
    remove_leftovers()
    assert not left.exists()


def test_nothing_is_removed_that_no_killed_worker_left(worker: HeartbeatFile) -> None:
    worker.beat()
    in_another_container = folder() / "999999-1.heartbeat"
    others = [folder() / name for name in ("notes.heartbeat", "999999.heartbeat", "orders.sql")]
    for path in (in_another_container, *others):
        path.write_text("{")

    remove_leftovers()

    assert all(path.exists() for path in (worker.path, in_another_container, *others))
    assert [beat.worker for beat in heartbeats()] == ["celery@here"]


def test_a_heartbeat_outlives_an_emptied_disk(worker: HeartbeatFile) -> None:
    worker.beat()
    shutil.rmtree(folder().parent)

    worker.beat()

    assert is_alive()[0] == 0


def test_a_heartbeat_outlives_a_full_disk(worker: HeartbeatFile, monkeypatch: pytest.MonkeyPatch) -> None:
    age_by(worker, TIMEOUT + 1)
    worker.path.write_text(worker.path.read_text().ljust(512))  # as a worker writes it

    def begins_and_has_no_room(path: Path, content: bytes) -> None:
        path.touch()
        no_room()

    monkeypatch.setattr(Path, "write_bytes", begins_and_has_no_room)
    worker.beat()

    assert is_alive()[0] == 0
    assert list(folder().iterdir()) == [worker.path]


def test_a_disk_without_room_for_a_first_heartbeat_is_logged(
    worker: HeartbeatFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "write_bytes", no_room)

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        worker.beat()


def test_a_worker_goes_on_beating_once_the_disk_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "disk"))
    monkeypatch.setattr(liveness, "INTERVAL", 0.01)
    worker = SimpleNamespace(hostname="celery@here", use_eventloop=False)
    step = liveness.Liveness(worker)
    step.start(worker)
    poll(heartbeats, "the heartbeat is there")

    (tmp_path / "disk").rename(tmp_path / "emptied")
    poll(heartbeats, "the heartbeat is there")
    with monkeypatch.context() as full:
        full.setattr(HeartbeatFile, "beat", no_room)
        poll(lambda: caplog.messages, "the failure is logged")
    poll(lambda: len(caplog.messages) == 2, "the recovery is logged")

    step._remove()
    poll(lambda: not list(folder().iterdir()), "the heartbeat is removed")
    assert [line.partition(",")[0] for line in caplog.messages] == [
        "No heartbeat for `workflow-engine health --live`",
        "`workflow-engine health --live` has a heartbeat again.",
    ]


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_worker_that_has_ended_leaves_nothing(worker: HeartbeatFile) -> None:
    worker.beat()
    worker.remove()

    assert list(folder().iterdir()) == []


def test_a_folder_that_is_not_ours_is_not_used(tmp_path: Path) -> None:
    folder().symlink_to(tmp_path)

    with pytest.raises(PermissionError, match="belongs to another user"):
        HeartbeatFile("celery@here").beat()


def test_machines_get_the_same_as_json(worker: HeartbeatFile) -> None:
    worker.beat()

    status, output = is_alive("--json")

    assert status == 0
    assert json.loads(without_seconds(output)) == {
        "healthy": True,
        "checks": [
            {
                "subject": f"celery@here (process {os.getpid()})",
                "isWell": True,
                "answer": "alive, … s ago",
            }
        ],
    }


def test_a_probe_of_a_worker_imports_nothing_that_takes_long() -> None:
    slow = ["sqlalchemy", "celery", "kombu", "redis", "pydantic", "rich", "psycopg2"]
    health = "workflow_engine.cli.commands.health"
    program = f"import sys, {health}; print([m for m in sys.argv[1:] if m in sys.modules])"

    loaded = subprocess.check_output([sys.executable, "-c", program, *slow], text=True)

    assert loaded == "[]\n"
