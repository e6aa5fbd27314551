"""The execution context: what an execution has gathered so far, as nodes and expressions see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from workflow_engine.execution.children import EndedChildren


class LazyMapping(Mapping[str, Any]):
    """A mapping that fetches some of its values only when they are read.

    `loaded` holds values that are here already; `load` fetches any other on first access and raises
    KeyError if there is none. Iteration covers the loaded and the `announced` keys, in the order that all
    objects have; `ExecutionContextCache.load_context` reads the whole of an execution.
    """

    def __init__(
        self, loaded: dict[str, Any], load: Callable[[str], Any], announced: tuple[str, ...] = ()
    ) -> None:
        self._loaded = loaded
        self._load = load
        self._announced = announced

    def __getitem__(self, key: str) -> Any:
        if key not in self._loaded:
            self._loaded[key] = self._load(key)
        return self._loaded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._loaded, *self._announced}))

    def __len__(self) -> int:
        return len(self._loaded.keys() | set(self._announced))

    def __contains__(self, key: object) -> bool:
        try:
            self[str(key)]
        except KeyError:
            return False
        return True


@dataclass(frozen=True)
class Wake:
    """Why a waiting node goes on."""

    reason: Literal["time", "events", "timeout", "children"]
    events: Mapping[str, Any] = field(default_factory=dict)
    """The payloads that arrived, by event name; of several events of one name the first."""
    waited: float = 0.0
    """Seconds since the first wait of this visit began, by the database's clock."""
    children: EndedChildren | None = None
    """The children that the node has waited for."""


class Run(Protocol):
    """The present run of a node: what its code may learn from outside and report."""

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
    """Set by nodes with `success(…, variables=…)`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str = ""
    """`execution id : node id : visit`; the same over retries and crashes of one visit."""
    attempt: int = 1
    wake: Wake | None = None
    """Why the node goes on, after a wait; None when it begins."""
    arrivals: tuple[str, ...] = ()
    """For a node with several incoming edges: the sources that led here, in the order of arrival."""
    failures: tuple[int, ...] = ()
    """For a node whose `retry` is a list of rules: the failed attempts by each, up to the last one used."""
    iteration: Mapping[str, Any] = field(default_factory=dict)
    """In the body of a loop: `_index`, and `_previous` from the second iteration of a `while` or `until`."""
    run: Run | None = field(default=None, repr=False, compare=False)
    """Where `cancelled` and `report_progress` lead; None outside of a worker."""

    def cancelled(self) -> bool:
        """Return whether to stop: the execution was cancelled, timed out or goes on without this result.

        For nodes that would rather end in good order than be interrupted, and for pools that cannot interrupt
        (threads, greenlets). The answer is about a second old and costs no call to a server: check it often.
        """
        return self.run is not None and self.run.is_unwanted

    def report_progress(self, fraction: float | None = None, message: str = "") -> None:
        """Report how far this node is: `fraction` from 0 to 1, and a message, for `workflow-engine show`.

        Costs next to nothing: only the last report of each second is stored, and none after the node has
        ended. Raises ValueError for a fraction outside of 0 to 1.
        """
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError(f"progress is a fraction from 0 to 1, not {fraction!r}")
        if self.run is not None:
            self.run.report_progress(fraction, message)

    @property
    def trigger_data(self) -> Any:
        """The data that this execution was started with."""
        return self.node_outputs[self.trigger_node_id]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, the same in snapshots and in the database."""
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
