"""Files of JSON lines that several processes write while others read them, and that survive a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append(path: Path, fields: Mapping[str, Any]) -> None:
    """Add a line: one write to a file opened with O_APPEND, so lines of several processes never mix."""
    with path.open("ab", buffering=0) as lines:
        lines.write(json.dumps(fields).encode() + b"\n")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return all complete lines so far; an incomplete one is being written, or was when a kill came."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
