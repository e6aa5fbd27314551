"""The contents of a span of WAL: records of changes, and full-page images.

Postgres' own statistics count images and not their bytes, and sessions flush them late. `pg_waldump`, which
comes with every Postgres, reads the files; so a span must be read before checkpoints recycle it.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.testbed import BenchmarkFailed, Testbed

# A commit that Postgres waits for; everything written before it is then in the files as well.
FLUSH = "SELECT pg_logical_emit_message(true, 'benchmarks', '')"
TOTAL = re.compile(r"^Total\s+(\d+)\s+(\d+) \[[\d.]+%\]\s+(\d+) \[", re.MULTILINE)


@dataclass(frozen=True)
class Wal:
    """The WAL between two positions."""

    records: int
    record_bytes: int
    """Without the images in them."""
    image_bytes: int

    @classmethod
    def between(cls, testbed: Testbed, begin: int, end: int) -> Wal:
        """Read the WAL between two positions, in bytes since initdb, as `Counters` has them."""
        testbed.execute(FLUSH)
        ((folder,),) = testbed.rows("SHOW data_directory")
        run = subprocess.run(
            [
                Path(psutil.Process(testbed.servers.postgres.pid).exe()).with_name("pg_waldump"),
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
            raise BenchmarkFailed(f"pg_waldump printed no totals: {run.stderr}")
        return cls(*map(int, found.groups()))


def _position(of: int) -> str:
    """Return a position as Postgres writes it."""
    return f"{of >> 32:X}/{of & 0xFFFFFFFF:X}"
