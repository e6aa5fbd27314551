"""Processes of this machine, by the numbers that files in a shared folder are named after.

Containers that share a folder count their processes separately, so a number means nothing without its
namespace.
"""

from __future__ import annotations

import os


def namespace() -> int:
    """Return the number of this process's namespace of process ids; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def exists(process: int) -> bool:
    """Return whether a process of this namespace has the number."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return process > 0
