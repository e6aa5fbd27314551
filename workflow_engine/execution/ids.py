"""Ids of executions, which sort by time and are checked before they reach a statement, and random ones."""

from __future__ import annotations

import os
import time
import uuid
from datetime import datetime

from workflow_engine.errors import ExecutionNotFound

LOWEST_ID, HIGHEST_ID = str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1))


def new_execution_id() -> str:
    """Return a UUID of version 7: ids sort by creation time, so new rows share pages and lists are in order.

    The 12 bits after the milliseconds are their fraction (RFC 9562, section 6.2, method 3, as in Postgres
    18's `uuidv7()`): steps of 244 ns, less than the time that making an id takes.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    digits, fraction = os.urandom(8).hex(), rest * 4096 // 1_000_000
    made, variant = f"{milliseconds:012x}", _variant(digits[0])
    return f"{made[:8]}-{made[8:]}-7{fraction:03x}-{variant}{digits[1:4]}-{digits[4:]}"


def random_uuid() -> str:
    """Return a random UUID (version 4). Every hop makes several, and `uuid.uuid4` makes an object first."""
    digits = os.urandom(16).hex()
    variant = _variant(digits[16])
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _variant(digit: str) -> str:
    """Return the digit of a UUID that names its variant, with two random bits of this one."""
    return "89ab"[int(digit, 16) % 4]


def id_of(moment: datetime) -> str:
    """Return the lowest id of an execution that can have been made at a time."""
    return str(uuid.UUID(int=(int(moment.timestamp() * 1000) << 80) if moment.timestamp() > 0 else 0))


def checked_id(execution_id: str) -> str:
    """Return the id in its usual spelling. Raises `ExecutionNotFound` if no execution can have it."""
    try:
        return str(uuid.UUID(execution_id))
    except (ValueError, AttributeError, TypeError):
        raise ExecutionNotFound(str(execution_id)) from None
