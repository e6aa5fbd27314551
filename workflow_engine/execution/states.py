"""The statuses of executions, nodes, waits, workflows and triggers, and which may follow which.

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
    PENDING = "PENDING"  # set by `start`, until a worker's first commit
    RUNNING = "RUNNING"  # a node is due or running; every commit decides again
    WAITING = "WAITING"  # no node is due, only waits are left, until the end of one
    PAUSED = "PAUSED"  # set and ended by an operator
    COMPLETED = "COMPLETED"  # set by the commit of the last node
    FAILED = "FAILED"  # set by the commit of an unhandled failure
    CANCELLED = "CANCELLED"  # set by an operator

    @property
    def is_finished(self) -> bool:
        return self in FINISHED


class Operation(StrEnum):
    """An operation of an operator on an execution."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    RERUN = "rerun"
    SKIP = "skip"
    COMPLETE = "complete"
    SET_OUTPUT = "set-output"
    SET_VARIABLE = "set-variable"
    PAUSE_BEFORE = "pause-before"
    CLEAR_BREAKPOINTS = "clear-breakpoints"


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
        """True for the statuses of which a visit has at most one journal row."""
        return self in FINAL


class SupersededFor(StrEnum):
    """Why a journal row no longer counts."""

    RETRY = "RETRY"  # its visit goes on
    RERUN = "RERUN"  # a new visit of its node takes its place


class HistoryLine(StrEnum):
    """A line of the history about a run that ended without a row in the journal."""

    INTERRUPTED = "INTERRUPTED"
    """The node ran; if its execution still wants it, it runs again."""
    LOST = "LOST"
    """The node ran, and its process died; it runs again, unless it has been lost too often."""
    REQUEUED = "REQUEUED"
    """The node did not run; its message went back to its queue."""


EVENT_TYPES = {
    Operation.PAUSE: "PAUSED",
    Operation.RESUME: "RESUMED",
    Operation.CANCEL: "CANCELLED",
    Operation.RETRY: "RETRIED",
    Operation.RERUN: "RERUN",
    Operation.SKIP: "NODE_SKIPPED",
    Operation.COMPLETE: "NODE_COMPLETED",
    Operation.SET_OUTPUT: "OUTPUT_SET",
    Operation.SET_VARIABLE: "VARIABLE_SET",
    Operation.PAUSE_BEFORE: "BREAKPOINT_SET",
    Operation.CLEAR_BREAKPOINTS: "BREAKPOINTS_CLEARED",
}
"""The name of each operation in the history."""


class WaitType(StrEnum):
    DELAY = "DELAY"
    EVENTS = "EVENTS"
    RETRY = "RETRY"
    CHILDREN = "CHILDREN"
    CODE = "CODE"  # a worker that has the code of the node
    LIMIT = "LIMIT"  # a slot of a limit


class SlotStatus(StrEnum):
    HELD = "HELD"
    LIMITED = "LIMITED"  # its owner stands in line for it


class WaitStatus(StrEnum):
    WAITING = "WAITING"
    RESUMING = "RESUMING"
    COMPLETED = "COMPLETED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"


class WorkflowState(StrEnum):
    ACTIVE = "ACTIVE"
    DEACTIVATED = "DEACTIVATED"  # its triggers start nothing; what runs finishes
    ARCHIVED = "ARCHIVED"  # deactivated, and hidden from lists


class TriggerState(StrEnum):
    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED"  # by an operator: it starts nothing
    ERROR = "ERROR"  # its last start was refused; the next one that succeeds makes it ACTIVE


FINISHED = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED})
ACTIVE = frozenset({ExecutionStatus.PENDING, ExecutionStatus.RUNNING})
FINAL = frozenset({NodeStatus.COMPLETED, NodeStatus.FAILED})

LEGAL_MOVES: dict[ExecutionStatus, frozenset[ExecutionStatus]] = {
    ExecutionStatus.PENDING: frozenset(
        {ExecutionStatus.RUNNING, ExecutionStatus.WAITING, ExecutionStatus.PAUSED} | FINISHED
    ),
    ExecutionStatus.RUNNING: frozenset({ExecutionStatus.WAITING, ExecutionStatus.PAUSED} | FINISHED),
    ExecutionStatus.WAITING: frozenset({ExecutionStatus.RUNNING, ExecutionStatus.PAUSED} | FINISHED),
    # An execution that was paused before its first commit is resumed as PENDING.
    ExecutionStatus.PAUSED: frozenset(
        {ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.WAITING} | FINISHED
    ),
    ExecutionStatus.COMPLETED: frozenset(),
    ExecutionStatus.FAILED: frozenset(),
    ExecutionStatus.CANCELLED: frozenset(),
}
"""The statuses that may follow each status. A retry or rerun of a finished execution is an operation."""


def legal_sources(status: ExecutionStatus) -> frozenset[ExecutionStatus]:
    """Return the statuses that a status may follow."""
    return frozenset(source for source, targets in LEGAL_MOVES.items() if status in targets)


LEGAL_FROM: dict[Operation, frozenset[ExecutionStatus]] = {
    Operation.PAUSE: legal_sources(ExecutionStatus.PAUSED),
    Operation.RESUME: frozenset({ExecutionStatus.PAUSED}),
    Operation.CANCEL: legal_sources(ExecutionStatus.CANCELLED),
    Operation.RETRY: frozenset({ExecutionStatus.FAILED}),
    # A PENDING execution has not run anything yet.
    Operation.RERUN: frozenset(set(ExecutionStatus) - {ExecutionStatus.PENDING}),
    # Of a FAILED execution, the node whose failure ended it.
    Operation.SKIP: frozenset(set(ExecutionStatus) - {ExecutionStatus.COMPLETED, ExecutionStatus.CANCELLED}),
    Operation.COMPLETE: frozenset({ExecutionStatus.RUNNING, ExecutionStatus.WAITING, ExecutionStatus.PAUSED}),
    # Only at rest: no node is to begin with the one value and end after the other.
    Operation.SET_OUTPUT: frozenset({ExecutionStatus.PAUSED} | FINISHED),
    Operation.SET_VARIABLE: frozenset({ExecutionStatus.PAUSED} | FINISHED),
    Operation.PAUSE_BEFORE: frozenset(set(ExecutionStatus) - FINISHED),
    Operation.CLEAR_BREAKPOINTS: frozenset(set(ExecutionStatus) - FINISHED),
}
"""The statuses that each operation is possible from; it is refused in all others."""
