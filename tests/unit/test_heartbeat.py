"""A supervisor learns from a small file whether the worker beside it does its work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from workflow_engine.cli import main
from workflow_engine.heartbeat import ENDING, PATIENCE, HeartbeatFile, folder, heartbeats


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def worker() -> HeartbeatFile:
    """The heartbeat of this very process."""
    file = HeartbeatFile("celery@here")
    file.open()
    return file


def is_alive(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["health", "--live", *options])
    return result.exit_code, result.output


def age_by(seconds: float) -> None:
    path = folder() / f"{os.getpid()}{ENDING}"
    path.write_text(json.dumps({"worker": "celery@here", "at": time.monotonic() - seconds}))


def test_a_worker_with_a_heartbeat_is_alive(worker: HeartbeatFile) -> None:
    worker.beat()

    assert is_alive() == (0, f"ok  celery@here (process {os.getpid()}): alive, 0 s ago\n")


def test_without_a_heartbeat_no_worker_is_alive(worker: HeartbeatFile) -> None:
    assert is_alive() == (1, f"NO  Worker: none has a heartbeat in {folder()}\n")


def test_a_worker_whose_heartbeat_has_stopped_is_not_alive(worker: HeartbeatFile) -> None:
    age_by(PATIENCE + 1)

    status, output = is_alive()

    assert status == 1
    assert f"no heartbeat for {PATIENCE + 1:.0f} s" in output


def test_a_heartbeat_of_before_the_machine_started_counts_as_none(worker: HeartbeatFile) -> None:
    age_by(-1000)

    assert is_alive()[0] == 1


def test_a_worker_is_asked_for_by_its_whole_name_or_the_first_part(worker: HeartbeatFile) -> None:
    worker.beat()

    assert is_alive("--worker", "celery")[0] == 0
    assert is_alive("--worker", "celery@here")[0] == 0
    assert is_alive("--worker", "other") == (1, f"NO  other: none has a heartbeat in {folder()}\n")


def test_what_a_killed_worker_left_is_ignored_and_removed_by_the_next(worker: HeartbeatFile) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = folder() / f"{child.pid}{ENDING}"
    left.write_text(json.dumps({"worker": "killed@here", "at": time.monotonic() - 999}))
    (folder() / f"junk{ENDING}").write_text("{")
    worker.beat()

    assert [beat.worker for beat in heartbeats()] == ["celery@here"]
    worker.open()
    assert not left.exists()


def test_a_worker_that_has_ended_leaves_nothing(worker: HeartbeatFile) -> None:
    worker.beat()
    worker.remove()

    assert list(folder().iterdir()) == []


def test_a_folder_that_is_not_ours_is_not_used(tmp_path: Path) -> None:
    folder().symlink_to(tmp_path)

    with pytest.raises(PermissionError, match="belongs to somebody else"):
        HeartbeatFile("celery@here").open()


def test_machines_get_the_same_as_json(worker: HeartbeatFile) -> None:
    worker.beat()

    status, output = is_alive("--json")

    assert status == 0
    assert json.loads(output) == {
        "healthy": True,
        "checks": [
            {
                "subject": f"celery@here (process {os.getpid()})",
                "isWell": True,
                "answer": "alive, 0 s ago",
            }
        ],
    }


def test_a_probe_of_a_worker_imports_nothing_that_takes_long() -> None:
    slow = ["sqlalchemy", "celery", "kombu", "redis", "pydantic", "rich", "psycopg2"]
    program = "import sys, workflow_engine.cli.health; print([m for m in sys.argv[1:] if m in sys.modules])"

    loaded = subprocess.check_output([sys.executable, "-c", program, *slow], text=True)

    assert loaded == "[]\n"
