"""Heartbeats of workers: a small file that each worker on this machine renews for as long as it is well.

A file, because a supervisor's probe has to be cheap and must not depend on a server: an outage of the broker
is no reason to restart every worker. It is in a folder of its own among the temporary files (TMPDIR), which
the probe has to share with the worker. Ages are of the machine's monotonic clock, which is never adjusted.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from workflow_engine.telemetry.processes import exists, namespace

INTERVAL = 5.0
"""Seconds between two heartbeats."""

TIMEOUT = 60.0
"""Seconds without a heartbeat after which a worker counts as dead."""

NAME = re.compile(r"(\d{1,9})-(\d+)\.heartbeat")
"""The process, and the process namespace in which the worker has that number."""


@dataclass(frozen=True)
class Heartbeat:
    """The last heartbeat of a worker whose process exists."""

    worker: str
    """Celery's name for it: `celery@host`."""
    process: int
    age: float
    """Seconds since it was written."""

    @property
    def is_fresh(self) -> bool:
        # A heartbeat from the future was written before the machine was started.
        return 0 <= self.age <= TIMEOUT


class HeartbeatFile:
    """The file of one worker. Methods raise OSError, and may be called again after it."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self.path = folder() / f"{os.getpid()}-{namespace()}.heartbeat"

    def beat(self) -> None:
        """Write the current time, into a new file and a new folder if these were removed.

        Raises PermissionError if the folder belongs to another user.
        """
        _make_folder()
        content = json.dumps({"worker": self._worker, "at": time.monotonic()}).ljust(512).encode()
        draft = self.path.with_suffix(".draft")
        try:
            # Replaced as a whole, so that no reader sees half of it.
            draft.write_bytes(content)
            draft.replace(self.path)
        except OSError:
            # A full disk has no room for a second file; the first one is overwritten at its full length.
            draft.unlink(missing_ok=True)
            if not self.path.exists():
                raise
            with self.path.open("r+b", buffering=0) as file:
                file.write(content)

    def remove(self) -> None:
        """Remove the file, once the worker has ended."""
        self.path.unlink(missing_ok=True)


def folder() -> Path:
    """Return the folder that holds the heartbeats of this user's workers, and nothing else.

    Not `tempfile.gettempdir()`: while the disk is full, that returns another folder in every process.
    """
    named = next(filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))), "/tmp")  # noqa: S108
    return Path(named) / f"workflow-engine-heartbeats-{os.geteuid()}"


def heartbeats() -> list[Heartbeat]:
    """Return the last heartbeat of each of this user's workers, fresh or not, in order of names."""
    found = []
    for path, process in _files():
        try:
            content = json.loads(path.read_bytes())
            beat = Heartbeat(content["worker"], process, time.monotonic() - content["at"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # removed since it was listed, or not written by a worker
        if exists(beat.process):
            found.append(beat)
    return sorted(found, key=lambda beat: (beat.worker, beat.process))


def remove_leftovers() -> None:
    """Remove the heartbeats of workers that were killed. Raises OSError."""
    for path, process in _files():
        if not exists(process):
            path.unlink(missing_ok=True)


def _make_folder() -> None:
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder().stat().st_uid != os.geteuid() or folder().is_symlink():
        raise PermissionError(f"{folder()} belongs to another user")


def _files() -> list[tuple[Path, int]]:
    """Return the heartbeat files of this process namespace, with the process of each.

    Containers that share a folder count their processes separately.
    """
    matches = [(path, NAME.fullmatch(path.name)) for path in folder().glob("*.heartbeat")]
    return [(path, int(match[1])) for path, match in matches if match and match[2] == str(namespace())]
