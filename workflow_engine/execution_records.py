"""What is handed to Postgres and what it answers: executions, commits, journal rows."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from workflow_engine.states import ExecutionStatus, NodeStatus, WaitStatus, WaitType
from workflow_engine.walk import JournalEntry

FORMAT = 1
"""Number of the form of messages, contexts and rows; a worker gives back what is newer than itself."""

FIRST_SEQ = 1
"""`seq` of the trigger's journal row, with which every execution begins."""


def new_execution_id() -> str:
    """A UUID of version 7: ids sort by the time they were made, so new rows share pages, lists are in order.

    The 12 bits after the milliseconds are their fraction (RFC 9562, section 6.2, method 3, as Postgres
    18's `uuidv7()` has it): steps of 244 ns, which is less than making an id takes.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    value = (
        (milliseconds << 80)
        | (0x7 << 76)
        | ((rest * 4096 // 1_000_000) << 64)
        | (0b10 << 62)
        | secrets.randbits(62)
    )
    return str(uuid.UUID(int=value))


@dataclass(frozen=True)
class NewExecution:
    """What `start` writes: the execution and the journal row of its trigger."""

    execution_id: str
    workflow_id: str
    version: int
    trigger_id: str
    trigger_node_id: str
    trigger_sub_type: str
    data: bytes
    """The trigger's data as JSON."""
    variables: bytes
    """The variables at the start as a JSON object, those of the definition included."""
    trigger_label: str | None = None
    priority: int | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""
    parent_execution_id: str | None = None
    timeout: float | None = None
    """Seconds the execution may take."""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StartedExecution:
    """What a start came to."""

    id: str
    is_new: bool
    """False if the idempotency key had already started this execution."""
    created_at: datetime
    """When it was created, by the database's clock."""
    _publish: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def publish(self) -> None:
        """Send the first message of an execution that was started on a connection of yours, and committed.

        Only a start on a bare `Connection`, or in a session joined into a transaction from outside, needs
        it; without it the workers find the execution when it has stood still for `stall_after`. To an
        execution that has begun it does nothing, and a second message does no harm.

        Raises `ExecutionNotFound` unless the transaction has committed, and `DatabaseUnavailable`.
        """
        self._publish()


@dataclass(frozen=True)
class NewWait:
    """A wait state that a commit opens. Times are relative or absolute; the database's clock decides."""

    type: WaitType
    resume_at: datetime | None = None
    resume_in: float | None = None
    """Seconds from the commit on."""
    expires_in: float | None = None
    correlation_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WokenWait:
    """A wait state that is over, and what its node is told."""

    type: WaitType
    reason: Literal["time", "events", "timeout"]
    received_events: Mapping[str, Any]
    waited: float
    """Seconds since the first wait of this visit began."""

    @property
    def status_when_resumed(self) -> WaitStatus:
        return WaitStatus.TIMEOUT if self.reason == "timeout" else WaitStatus.COMPLETED


@dataclass(frozen=True)
class DueWait:
    """A wait whose node has to be enqueued."""

    execution_id: str
    workflow_id: str
    version: int
    node_id: str
    seq: int
    priority: int | None
    woken_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True)
class NodeCommit:
    """One journal row, and where the execution stands after it."""

    execution_id: str
    fence: str
    """The fence of the context that the node ran with."""
    token: str
    """The fence after this commit."""
    execution_status: ExecutionStatus
    node_id: str
    type: str
    sub_type: str
    status: NodeStatus
    worker: str
    label: str | None = None
    visit: int = 1
    attempt: int = 1
    handles: tuple[str, ...] = ()
    variables: bytes | None = None
    input_data: bytes | None = None
    output: bytes | None = None
    error: str | None = None
    error_details: Mapping[str, Any] | None = None
    duration_ms: float = 0.0
    context: Mapping[str, Any] | None = None
    """The context to persist, when the execution comes to rest with this commit."""
    retry_details: Mapping[str, Any] | None = None
    opens: NewWait | None = None
    closes: tuple[str, ...] = ()
    """Nodes whose waits are over with this commit: the one that was woken, and those cancelled."""
    woken_status: WaitStatus | None = None
    """How the wait of this commit's own node ended."""


@dataclass(frozen=True)
class CommitAnswer:
    """What Postgres says to a commit."""

    accepted: bool
    seq: int
    status: ExecutionStatus
    fence: str
    attention: bool
    """Somebody asks for attention: a wait is over, or an operator has acted."""
    committed_at: datetime


@dataclass(frozen=True)
class JournalRow:
    """A row of the journal as far as it rebuilds a context."""

    entry: JournalEntry
    output: bytes | None
    variables: Mapping[str, Any] | None


@dataclass(frozen=True)
class Losses:
    """Processes that died while they ran a node on top of the present `seq` of its execution."""

    count: int = 0
    last: str | None = None
    """What is known of the last one."""


@dataclass(frozen=True)
class Snapshot:
    """All that Postgres knows about an execution, read at one instant."""

    execution_id: str
    workflow_id: str
    version: int
    trigger_id: str
    trigger_node_id: str
    status: ExecutionStatus
    fence: str
    seq: int
    format: int
    priority: int | None
    losses: Losses
    read_at: datetime
    """By the database's clock."""
    metadata: Mapping[str, Any]
    visits: Mapping[str, int]
    journal: tuple[JournalRow, ...]
