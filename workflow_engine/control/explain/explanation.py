"""Explanation: why an execution does not move, or how it does, as one code and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from workflow_engine.execution.states import ExecutionStatus


class Code(StrEnum):
    """The reasons why an execution is where it is. An explanation has exactly one of them."""

    RUNNING = "RUNNING"  # a worker runs a node of it
    QUEUED = "QUEUED"  # its message waits for a free worker
    NO_WORKER = "NO_WORKER"  # no worker consumes the queue of its next node
    QUEUE_PAUSED = "QUEUE_PAUSED"  # workers were told to stop consuming that queue
    WAITING_TIME = "WAITING_TIME"  # a node waits for a time
    WAITING_EVENTS = "WAITING_EVENTS"  # a node waits for events
    WAITING_CHILDREN = "WAITING_CHILDREN"  # a node waits for child executions
    RETRYING = "RETRYING"  # a node failed, and its next attempt has a time
    PAUSED = "PAUSED"  # an operator paused it
    UNKNOWN_TYPE = "UNKNOWN_TYPE"  # workers lack the code of a node
    GIVEN_BACK = "GIVEN_BACK"  # workers return its message, because a server is away
    HELD_BY_DEAD = "HELD_BY_DEAD"  # the lock of a process that is gone
    STALLED = "STALLED"  # its message was lost; workers bring it back
    LIMITED = "LIMITED"  # a limit of concurrency or rate
    JOIN = "JOIN"  # a merge waits for several branches, for different reasons
    FINISHED = "FINISHED"  # it has ended


@dataclass(frozen=True)
class Explanation:
    """Why one execution is where it is, from what servers showed at one moment."""

    execution_id: str
    code: Code
    sentence: str
    """One sentence for people. It may hold text from data, so a terminal needs `sanitise` first."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What the code was concluded from: JSON values; times are ISO 8601 in UTC."""
    command: str | None = None
    """The command of a shell that helps, quoted as it has to be; None if nothing has to be done."""
    advice: str = ""
    """What the command does, or what happens without one."""
    unasked: Sequence[str] = ()
    """The servers that could not be asked, each with the reason; the code may be wrong for lack of them."""
    status: ExecutionStatus | None = None
    """The execution's status; None while Postgres cannot be asked."""
    workflow_id: str | None = None
    node_id: str | None = None
    """The node that the code is about, if it is about one."""
    subject: str = ""
    """What many executions may have in common: an event, a queue, a node type, an error."""


@dataclass(frozen=True)
class Group:
    """The executions that have one code in common."""

    code: Code
    count: int
    oldest: Sequence[str]
    """The ids of the oldest of them."""
    sentence: str
    """One sentence about all of them."""
    subjects: Mapping[str, int] = field(default_factory=dict)
    """How many have which event, queue, node type or error in common; the most frequent first."""
    example: Explanation | None = None
    """The explanation of the oldest one."""


@dataclass(frozen=True)
class Overview:
    """What stands still in an installation: its oldest executions that have not ended, by code."""

    groups: Sequence[Group]
    """The largest first."""
    examined: int
    is_complete: bool
    """False if there are more executions than were examined."""
    unasked: Sequence[str] = ()
    """The servers that could not be asked, each with the reason."""
