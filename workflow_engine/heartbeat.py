"""Heartbeats of workers: a small file that each worker on this machine renews for as long as it is well.

A file, because a supervisor's probe has to be cheap and must ask nobody else: an outage of the broker is no
reason to start every worker anew. It is in the folder for temporary files (TMPDIR), which whoever probes has
to share with the worker. Ages are of the machine's monotonic clock, which nobody sets back or forward.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 5.0
"""Seconds between two heartbeats."""

PATIENCE = 60.0
"""Seconds without a heartbeat after which a worker is given up."""

ENDING = ".heartbeat"


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
        # One from the future was written before the machine was started.
        return 0 <= self.age <= PATIENCE


class HeartbeatFile:
    """What one worker writes. Methods raise OSError."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._path = folder() / f"{os.getpid()}{ENDING}"

    def open(self) -> None:
        """Make the folder, and remove what workers have left that were killed."""
        folder().mkdir(mode=0o700, exist_ok=True)
        if folder().stat().st_uid != os.geteuid() or folder().is_symlink():
            raise PermissionError(f"{folder()} belongs to somebody else")
        for path in folder().glob(f"*{ENDING}"):
            if not _exists(_process_of(path)):
                path.unlink(missing_ok=True)

    def beat(self) -> None:
        # Replaced as a whole, so that nobody reads half of it.
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps({"worker": self._worker, "at": time.monotonic()}))
        draft.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def folder() -> Path:
    """Where the heartbeats of this user's workers are."""
    return Path(tempfile.gettempdir()) / f"workflow-engine-{os.geteuid()}"


def heartbeats() -> list[Heartbeat]:
    """The last heartbeat of every worker of this user on this machine, fresh or not, in order of names."""
    found = []
    for path in folder().glob(f"*{ENDING}"):
        try:
            content = json.loads(path.read_text())
            beat = Heartbeat(content["worker"], _process_of(path), time.monotonic() - content["at"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # removed meanwhile, or not written by a worker
        if _exists(beat.process):
            found.append(beat)
    return sorted(found, key=lambda beat: (beat.worker, beat.process))


def _process_of(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return process > 0
