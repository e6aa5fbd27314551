"""The statuses of executions, nodes and waits, and which may follow which.

                  start                first commit
    (nothing) ───────────▶ PENDING ───────────────────▶ RUNNING ◀────────┐
                             │                          │  │  ▲          │ a wait is over
                             │      an operator pauses  │  │  └──────────┤
                             ├──────────────▶ PAUSED ◀──┘  └──────▶ WAITING   only waits are left
                             │                  │                      │
                             └──────────┬───────┴──────────────────────┘
                                        ▼
                      COMPLETED  │  FAILED  │  CANCELLED

A finished status never changes, except by an operator's explicit retry or rerun, which is recorded.
"""

from __future__ import annotations

from enum import StrEnum


class ExecutionStatus(StrEnum):
    PENDING = "PENDING"  # `start` wrote it; the first commit of a worker takes it out
    RUNNING = "RUNNING"  # a node is due or running; every commit decides again
    WAITING = "WAITING"  # nothing is due, waits are left; whatever ends a wait takes it out
    PAUSED = "PAUSED"  # an operator put it here and takes it out
    COMPLETED = "COMPLETED"  # the commit of the last node put it here
    FAILED = "FAILED"  # the commit of a failure that nothing handles put it here
    CANCELLED = "CANCELLED"  # an operator put it here

    @property
    def is_finished(self) -> bool:
        return self in FINISHED


class NodeStatus(StrEnum):
    RUNNING = "RUNNING"  # known from the lock and its mark, not stored
    WAITING = "WAITING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"  # no way into the node was taken; not stored, replay derives it
    RETRYING = "RETRYING"
    CANCELLED = "CANCELLED"  # ended before it ran: a merge went on without it, or the execution ended

    @property
    def is_final(self) -> bool:
        """True for the journal rows of which a visit has at most one."""
        return self in FINAL


class SupersededFor(StrEnum):
    """Why a journal row counts no longer."""

    RETRY = "RETRY"  # the visit it belongs to goes on
    RERUN = "RERUN"  # a new visit of its node takes its place


class WaitType(StrEnum):
    DELAY = "DELAY"
    EVENTS = "EVENTS"
    RETRY = "RETRY"
    CHILDREN = "CHILDREN"


class WaitStatus(StrEnum):
    WAITING = "WAITING"
    RESUMING = "RESUMING"
    COMPLETED = "COMPLETED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"


FINISHED = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED})
ACTIVE = frozenset({ExecutionStatus.PENDING, ExecutionStatus.RUNNING})
FINAL = frozenset({NodeStatus.COMPLETED, NodeStatus.FAILED})

LEGAL_MOVES: dict[ExecutionStatus, frozenset[ExecutionStatus]] = {
    ExecutionStatus.PENDING: frozenset(
        {ExecutionStatus.RUNNING, ExecutionStatus.WAITING, ExecutionStatus.PAUSED} | FINISHED
    ),
    ExecutionStatus.RUNNING: frozenset({ExecutionStatus.WAITING, ExecutionStatus.PAUSED} | FINISHED),
    ExecutionStatus.WAITING: frozenset({ExecutionStatus.RUNNING, ExecutionStatus.PAUSED} | FINISHED),
    ExecutionStatus.PAUSED: frozenset({ExecutionStatus.RUNNING, ExecutionStatus.WAITING} | FINISHED),
    ExecutionStatus.COMPLETED: frozenset(),
    ExecutionStatus.FAILED: frozenset(),
    ExecutionStatus.CANCELLED: frozenset(),
}
"""Moves made by hops and operators. A retry or rerun of a finished execution is an operation of its own."""
