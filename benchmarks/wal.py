"""What a stretch of WAL is made of: records of changes, and images of whole pages.

Postgres' own statistics count images and not their bytes, and sessions hand them in late. `pg_waldump`,
which comes with every Postgres, reads the files; so a stretch must be read before checkpoints recycle it.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.fleet import BenchmarkFailed, Fleet

# A commit that Postgres waits for; what was written before it is in the files then as well.
FLUSH = "SELECT pg_logical_emit_message(true, 'benchmarks', '')"
TOTAL = re.compile(r"^Total\s+(\d+)\s+(\d+) \[[\d.]+%\]\s+(\d+) \[", re.MULTILINE)


@dataclass(frozen=True)
class Wal:
    """What lies between two positions."""

    records: int
    record_bytes: int
    """Without the images among them."""
    image_bytes: int

    @classmethod
    def between(cls, fleet: Fleet, begin: int, end: int) -> Wal:
        """Positions are bytes since the beginning of time, as `Counters` has them."""
        fleet.execute(FLUSH)
        ((folder,),) = fleet.rows("SHOW data_directory")
        run = subprocess.run(
            [
                Path(psutil.Process(fleet.servers.postgres.pid).exe()).with_name("pg_waldump"),
                "--stats",
                f"--path={folder}/pg_wal",
                f"--start={_position(begin)}",
                f"--end={_position(end)}",
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        if not (found := TOTAL.search(run.stdout)):
            raise BenchmarkFailed(f"pg_waldump does not tell what the WAL is made of: {run.stderr}")
        return cls(*map(int, found.groups()))


def _position(of: int) -> str:
    """As Postgres writes it."""
    return f"{of >> 32:X}/{of & 0xFFFFFFFF:X}"
