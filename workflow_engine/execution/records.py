"""What Postgres is given and what it returns: executions, commits, journal rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from workflow_engine.execution.states import ExecutionStatus, NodeStatus, SlotStatus, WaitStatus, WaitType
from workflow_engine.execution.walk import JournalEntry

FORMAT = 1
"""The version of messages, contexts and rows; a worker leaves newer ones to newer workers."""

OUT_OF_ORDER = timedelta(seconds=5)
"""How far messages may overtake each other between their commits and the queue."""

FIRST_SEQ = 1
"""`seq` of the trigger's journal row, the first of every execution."""


@dataclass(frozen=True)
class WantedSlot:
    """A slot of a limit that an execution, or an attempt of a node, needs."""

    key: str
    concurrency: int | None = None
    rate: int | None = None
    seconds: float | None = None
    """`rate` owners begin within so many seconds, at most."""


class WayIn(StrEnum):
    """What must still hold of a workflow, for a start that relies on what was read for an earlier one."""

    CURRENT = "CURRENT"  # workflow and trigger are open, and no other version has been deployed
    OPEN = "OPEN"  # workflow and trigger are open


@dataclass(frozen=True)
class NewExecution:
    """The rows that `start` writes: the execution and the journal row of its trigger."""

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
    queue: str
    """The queue of nodes that name none."""
    trigger_label: str | None = None
    priority: int | None = None
    due_queue: str | None = None
    """The queue of the first node, if it names one."""
    due_priority: int | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""
    """A hash of the caller's arguments: two starts with one key and different fingerprints conflict."""
    names_trigger: bool = False
    """The caller named the trigger; a start with the same key must have begun there."""
    body: str | None = None
    """The node whose body is run, as a path of node ids joined by "#"; None: the workflow's own nodes."""
    timeout: float | None = None
    """Seconds that the execution may take."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The engine's own, which nodes read as `_metadata`."""
    user_metadata: bytes | None = None
    """The caller's, as a JSON object."""
    tags: tuple[str, ...] = ()
    limits: tuple[WantedSlot, ...] = ()
    """The slots that it needs before its first node runs; a child's first worker finds out its own."""
    due: tuple[str, ...] = ()
    """The nodes that are due first, where a breakpoint may be."""
    queue_timeouts: Mapping[str, float] = field(default_factory=dict)
    """The seconds that those of them may stand in their queues that say so."""
    way_in: WayIn | None = None
    """What Postgres checks as it writes the rows; None if the producer has just read it."""


@dataclass(frozen=True)
class StartedExecution:
    """The result of a start."""

    id: str
    is_new: bool
    """False if the idempotency key had already started this execution."""
    created_at: datetime
    """The time of its creation, by the database's clock."""
    _publish: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def publish(self) -> None:
        """Send the first message of an execution that was started and committed on a connection of yours.

        Only a start on a bare `Connection`, or in a session joined into a transaction from outside, needs
        it; otherwise the workers rescue the execution after `stall_after` seconds. It does nothing for an
        execution that has begun, and a second message is harmless.

        Raises `ExecutionNotFound` unless the transaction has committed, and `DatabaseUnavailable`.
        """
        self._publish()


@dataclass(frozen=True)
class FailureStart:
    """What the end of a failed execution starts: a workflow's `onFailure`, made ready."""

    workflow_id: str
    new: NewExecution | None = None
    refused: str | None = None
    """Why it cannot start."""


@dataclass(frozen=True)
class NewChildren:
    """The executions that a wait for children starts, now and while it goes on."""

    start: NewExecution
    """What they have in common; of each one Postgres makes the id and, if there are items, the data."""
    total: int = 1
    first: int = 0
    """The index of the first one."""
    has_items: bool = False
    """Each child gets its items from `items` in the journal row that opens the wait."""
    batch: int | None = None
    """Items of one child, which gets a list of them; None: one item, as it is."""
    adapts: bool = False
    """How many items a child gets depends on how long they have taken; `total` counts items then."""
    item_variable: str | None = None
    index_variable: str | None = None
    concurrency: int = 1
    """Children that run at a time."""
    tolerated: int = 0
    """Failed children after which further ones are started."""
    starts_in: float | None = None
    """Seconds after the commit until the first one starts."""
    outlives_parent: bool = False
    """A child goes on if its parent ends before it."""
    deepest: int = 10
    """Levels below the root that are allowed."""
    most: int = 100_000
    """Descendants of the root that are allowed."""


@dataclass(frozen=True)
class NewWait:
    """A wait state that a commit opens. Times are relative or absolute; the database's clock decides."""

    type: WaitType
    resume_at: datetime | None = None
    resume_in: float | None = None
    """Seconds after the commit."""
    expires_in: float | None = None
    correlation_id: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    needs: str | None = None
    """The node type or function that this worker lacks; workers that have it try again."""
    needed_for: float | None = None
    """Seconds after which the node fails if no such worker has come."""
    again_in: float | None = None
    """Seconds after which the first such worker may try."""
    children: NewChildren | None = None
    limits: tuple[WantedSlot, ...] = ()
    """The slots that the node lacks."""


@dataclass(frozen=True)
class WokenWait:
    """A wait state that is over, as its node sees it."""

    type: WaitType
    reason: Literal["time", "events", "timeout", "children"]
    received_events: Mapping[str, Any]
    waited: float
    """Seconds since the first wait of this visit began."""
    is_given_up: bool = False
    """No worker has had the node's code for `unknown_type_timeout`."""
    seq: int = 0
    """The journal row that opened it."""
    children: Mapping[str, Any] = field(default_factory=dict)
    """Of a wait for children: `workflow`, `version`, `first`, `hasItems`, `total`, `completed`, `failed`,
    `tolerated`."""
    traceparent: str | None = None
    """The trace context of the run that began it, if that is traced."""

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
    queue: str | None = None
    """The execution's queue; None: the one of the settings."""
    woken_before: datetime | None = field(default=None, compare=False)
    """The time of an earlier claim, whose message may still be in the queue."""
    traceparent: str | None = field(default=None, compare=False)
    """The trace context of the execution, if it is traced."""


@dataclass(frozen=True)
class StartedChild:
    """A child that a commit or an end has started; its first message is to be published."""

    execution_id: str
    workflow_id: str
    version: int
    trigger_node_id: str
    queue: str | None
    priority: int | None
    created_at: datetime
    traceparent: str | None = None
    """The trace context of its start, if it is traced."""


@dataclass(frozen=True)
class FollowUps:
    """What is to be published once an execution has started others, or has ended. It may be lost."""

    started: tuple[StartedChild, ...] = ()
    woken: tuple[DueWait, ...] = ()
    reopened: tuple[str, ...] = ()
    """Executions that have begun before, and may go on since they have their slot again."""
    freed: tuple[str, ...] = ()
    """Keys of limits of which a slot may be free: it is to be granted to the next owner in line."""
    restarting: tuple[str, ...] = ()
    """Executions of which the next failed child can be restarted."""


@dataclass(frozen=True)
class EndedChild:
    """A child that has ended, as its parent reads it."""

    index: int
    execution_id: str
    status: ExecutionStatus
    outputs: Mapping[str, Any]
    """The outputs of the nodes that end it, by node id; none if it failed, or if they were not asked for."""
    error: str | None = None
    error_details: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Iteration:
    """The only child of a wait, which has ended: the wait goes on with the next one, or is over."""

    wait_seq: int
    """The journal row that opened the wait."""
    index: int
    goes_on: bool
    """The commit has the wait go on, with the child that it opens, and writes no row."""


@dataclass(frozen=True, kw_only=True)
class NewRow:
    """A journal row to append, on top of the one that left its fence."""

    execution_id: str
    fence: str
    """The fence of the context that the node ran with."""
    token: str
    """The fence after this row."""
    node_id: str
    type: str
    sub_type: str
    status: NodeStatus
    label: str | None = None
    visit: int = 1
    attempt: int = 1
    handles: tuple[str, ...] = ()
    variables: bytes | None = None
    input_data: bytes | None = None
    output: bytes | None = None
    logs: bytes | None = None
    """What the node has logged, as JSON."""
    duration_ms: float = 0.0
    newly_due: tuple[str, ...] = ()
    """The nodes that have become due by it, or by uncommitted rows before it, where a breakpoint may be."""


@dataclass(frozen=True, kw_only=True)
class PureRow(NewRow):
    """The row of a pure node, or of a sibling, which is committed together with a later one."""

    ended: float
    """When the node had run, by `time.monotonic()`."""


@dataclass(frozen=True, kw_only=True)
class NodeCommit(NewRow):
    """A journal row, and the state of the execution after it."""

    execution_status: ExecutionStatus
    """The status after it; if siblings have committed meanwhile, it is known only once they are seen."""
    worker: str
    error: str | None = None
    error_details: Mapping[str, Any] | None = None
    context: Mapping[str, Any] | None = None
    """The context to persist, if the execution comes to rest with this commit."""
    due_queue: str | None = None
    """The queue of the next due node, if it names one."""
    due_priority: int | None = None
    retry_details: Mapping[str, Any] | None = None
    opens: NewWait | None = None
    closes: tuple[str, ...] = ()
    """Nodes whose waits end with this commit: the one that was woken, and those cancelled."""
    woken_status: WaitStatus | None = None
    """How the wait of this commit's own node ended."""
    shared_since: int | None = None
    """The `seq` of that context, if nodes of the execution may run at the same time.

    The row is then appended although siblings have committed since, and the fence is theirs.
    """
    is_limited: bool = False
    """The workflow or a node of it has limits, so that slots may have to be freed."""
    ordered: tuple[str, ...] = ()
    """The nodes whose commits no sibling may overlook: a row is not appended behind theirs unseen."""
    joins: tuple[str, ...] = ()
    """The joins behind its node, which may be due as well if siblings have committed meanwhile."""
    queue_timeouts: Mapping[str, float] = field(default_factory=dict)
    """The seconds that nodes may stand in their queues, of those that it sends there and that say so."""
    has_queue_timeout: bool = False
    """Its own node is one of those."""
    removes_parts: bool = False
    """The output has the values of all parts of the node's work, which were stored one by one."""
    on_failure: FailureStart | None = None
    """What is started if the execution fails with this commit."""
    before: tuple[PureRow, ...] = ()
    """The rows of pure nodes that have run since the last commit, or of siblings that have ended by then.

    They come first, all or none.
    """
    iteration: Iteration | None = None
    """The child that it comes after, of a wait that may go on with another."""
    passes_crash_to: str | None = None
    """The node that the crash of this one is counted for from now on, since it may have been to blame."""

    @property
    def only_appends(self) -> bool:
        """True if it locks no row of another execution: what waits, wakes, ends or frees something may."""
        if self.execution_status is not ExecutionStatus.RUNNING or self.iteration is not None:
            return False
        return not (self.opens or self.closes or self.is_limited)

    @property
    def size(self) -> int:
        """The bytes of what its node has made, without the rows before it."""
        return sum(map(len, filter(None, (self.output, self.variables, self.input_data, self.logs))))


@dataclass(frozen=True)
class JournalRow:
    """The parts of a journal row that rebuild a context."""

    entry: JournalEntry
    output: bytes | None
    variables: Mapping[str, Any] | None


@dataclass(frozen=True)
class CommitResult:
    """The result of a commit."""

    accepted: bool
    seq: int
    status: ExecutionStatus
    fence: str
    wake_requested: bool
    """A wait is over, and the holder of the lock has to enqueue its node."""
    committed_at: datetime
    follow_ups: FollowUps | None = None
    """Of a commit that started children, or that ended one."""
    missed: tuple[JournalRow, ...] = ()
    """The rows that siblings committed between the context's `seq` and this one, without outputs."""
    is_behind: bool = False
    """It was not appended because a missed row may decide about its node; it may be offered again."""


@dataclass(frozen=True)
class Settled:
    """An execution that was brought to rest after a commit that could not know that nothing is due."""

    status: ExecutionStatus
    follow_ups: FollowUps | None = None
    """Of the end of a child."""


@dataclass(frozen=True)
class DonePart:
    """A part of a node's work that is done, and stored until the whole is."""

    value: Any
    attempt: int
    """The attempt of the node in which it was done."""


@dataclass(frozen=True)
class BegunRun:
    """A run of a node with `onCrash: fail`, marked in Postgres before it began."""

    token: str
    """That of the claim under which it runs."""
    visit: int
    worker: str
    at: str
    """By the worker's clock, in ISO 8601."""


@dataclass(frozen=True)
class Crashes:
    """Runs of a node that have ended without a commit since the node was last committed."""

    count: int = 0
    last: str | None = None
    """A description of the last one."""
    begun: BegunRun | None = None
    """The run that was marked and has not been committed, of a node with `onCrash: fail`."""

    @classmethod
    def from_json(cls, stored: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Crashes]:
        """Return the crashes by node id, from the column of this name."""
        return {node_id: cls._of(**each) for node_id, each in (stored or {}).items()}

    @classmethod
    def _of(cls, *, begun: Mapping[str, Any] | None = None, **counted: Any) -> Crashes:
        return cls(**counted, begun=None if begun is None else BegunRun(**begun))


@dataclass(frozen=True)
class Snapshot:
    """All that Postgres holds of an execution, read at one instant."""

    execution_id: str
    workflow_id: str
    version: int
    trigger_id: str
    trigger_node_id: str
    status: ExecutionStatus
    has_begun: bool
    """A commit has been accepted."""
    fence: str
    seq: int
    format: int
    priority: int | None
    crashes: Mapping[str, Crashes]
    """Crashes by node id, of the nodes that have any."""
    read_at: datetime
    """The time of reading, by the database's clock."""
    metadata: Mapping[str, Any]
    visits: Mapping[str, int]
    journal: tuple[JournalRow, ...]
    queue: str | None = None
    """The queue of nodes that name none; None: the one of the settings."""
    slots: SlotStatus | None = None
    """Whether it holds the slots of its workflow's limits; None if it has none."""
    has_breakpoints: bool = False
    """It is paused whenever one of certain nodes becomes due."""
