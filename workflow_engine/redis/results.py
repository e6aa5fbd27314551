"""The results of entering and leaving a node in Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Held:
    """Another claim holds the lock, or the node's place in it, which is marked as contended."""

    holder: bytes


@dataclass(frozen=True)
class Full:
    """Every place of the lock is taken. The next claim that leaves sends the node again."""


@dataclass(frozen=True)
class Late:
    """The execution has moved on since the message was sent, and its node is not due; nothing is locked."""

    was_contended: bool = False
    """Another waiter's flag was cleared along with ours: its execution has to be resumed."""


@dataclass(frozen=True)
class Abandoned:
    """A run of the node whose process vanished."""

    mark: bytes
    """Its claim."""
    seq: int
    """The seq on top of which it ran, or an earlier one."""


@dataclass(frozen=True)
class Missing:
    """The lock is ours, but the context has to be rebuilt from Postgres."""

    abandoned: Abandoned | None = None


@dataclass(frozen=True)
class LeaveResult:
    """A node was left after its commit, and the lock released."""

    was_updated: bool
    """The cached context is up to date; else it did not hold what we entered with, and was deleted."""
    was_contended: bool
    """A waiter has met the lock: a node was woken, or an operator has acted."""
    has_sent: bool = False
    """The messages passed to the call are in their queues."""
    turned_away: Sequence[str] = ()
    """Nodes that found all places taken; they are to be sent again."""
    overdue: Sequence[str] = ()
    """Nodes in hand that were sent long ago, and that no claim runs: their messages may be lost."""
