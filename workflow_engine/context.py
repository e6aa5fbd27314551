"""The execution context: what an execution has gathered so far, as nodes and expressions see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


class LazyMapping(Mapping[str, Any]):
    """A mapping of which some values stay where they are stored until they are asked for.

    `at_hand` holds what is there already; `load` fetches any other value on first access and raises
    KeyError if there is none. Iterating goes over what is at hand and over the `announced` keys; whoever
    needs the whole of an execution has `ExecutionContextCache.load_context`.
    """

    def __init__(
        self, at_hand: dict[str, Any], load: Callable[[str], Any], announced: tuple[str, ...] = ()
    ) -> None:
        self._at_hand = at_hand
        self._load = load
        self._announced = tuple(key for key in announced if key not in at_hand)

    def __getitem__(self, key: str) -> Any:
        if key not in self._at_hand:
            self._at_hand[key] = self._load(key)
        return self._at_hand[key]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._at_hand, **dict.fromkeys(self._announced)})

    def __len__(self) -> int:
        return len(self._at_hand.keys() | set(self._announced))

    def __contains__(self, key: object) -> bool:
        try:
            self[str(key)]
        except KeyError:
            return False
        return True


@dataclass(frozen=True)
class Wake:
    """Why a waiting node goes on."""

    reason: Literal["time", "events", "timeout"]
    events: Mapping[str, Any] = field(default_factory=dict)
    """The payloads that arrived, by event name; of several with one name the first."""
    waited: float = 0.0
    """Seconds since the first wait of this visit began, by the database's clock."""


class Run(Protocol):
    """The present run of a node, as far as its code may speak with those outside."""

    @property
    def is_unwanted(self) -> bool: ...

    def report_progress(self, fraction: float | None, message: str) -> None: ...


@dataclass
class ExecutionContext:
    """An execution as one of its nodes sees it."""

    execution_id: str
    workflow_id: str
    trigger_id: str
    trigger_node_id: str
    current_node_id: str
    node_outputs: Mapping[str, Any]
    """Outputs by node id, fetched when they are read."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """A node sets variables with `success(…, variables=…)`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str = ""
    """`execution id : node id : visit`; the same over retries and crashes of one visit."""
    attempt: int = 1
    wake: Wake | None = None
    """Why the node goes on, after a wait; None when it begins."""
    arrivals: tuple[str, ...] = ()
    """For a node with several incoming edges: the sources that led here, in the order they did."""
    run: Run | None = field(default=None, repr=False, compare=False)
    """Where `cancelled` and `report_progress` lead; None outside of a worker."""

    def cancelled(self) -> bool:
        """Whether to stop: the execution was cancelled, ran out of time or is run again without this result.

        For nodes that would rather end in good order than be interrupted, and for pools whose nodes cannot
        be (threads, greenlets). It is known about a second later and asks nobody, so ask it often.
        """
        return self.run is not None and self.run.is_unwanted

    def report_progress(self, fraction: float | None = None, message: str = "") -> None:
        """Say how far this node is: `fraction` from 0 to 1, and some words; `workflow-engine show` tells it.

        Costs next to nothing; the last report of every second is shown, and none after the node has ended.
        Raises ValueError for a fraction that is none.
        """
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError(f"progress is a fraction from 0 to 1, not {fraction!r}")
        if self.run is not None:
            self.run.report_progress(fraction, message)

    @property
    def trigger_data(self) -> Any:
        """The data this execution was started with."""
        return self.node_outputs[self.trigger_node_id]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, the same in snapshots and in the database."""
        return {
            "executionId": self.execution_id,
            "workflowId": self.workflow_id,
            "triggerId": self.trigger_id,
            "triggerNodeId": self.trigger_node_id,
            "currentNodeId": self.current_node_id,
            "nodeOutputs": dict(self.node_outputs),
            "variables": dict(self.variables),
            "metadata": dict(self.metadata),
        }
