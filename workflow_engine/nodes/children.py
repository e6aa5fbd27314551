"""What a node asks for that starts other executions: its children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Children:
    """Executions that a node starts, and waits for: of a workflow, or of the body in its own config."""

    workflow: str | None = None
    """The id of a workflow; None: the node's body."""
    version: int | None = None
    trigger: str | None = None
    """The trigger node to start at; None: the only one."""
    data: Any = None
    """The trigger data of a single child of a workflow."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    items: Sequence[Any] | None = None
    """One child for each of these, which stand as `items` in the node's config; None: a single child."""
    item_variable: str = "item"
    index_variable: str = "index"
    batch: int | None = None
    """Items of one child, which then gets a list of them; None: one, as it is."""
    adapts: bool = False
    """A child gets a list of as many items as take a fraction of a second, judged by those before it."""
    concurrency: int = 1
    tolerated: int = 0
    """Children that may fail before no further one is started."""
    index: int = 0
    """The number of the iteration, if there is a single child."""
    previous: Any = None
    """The output of the iteration before."""
    starts_in: float | None = None
    """Seconds until the first child starts."""
    timeout: float | None = None
    """Seconds that a child may take."""
    outlives_parent: bool = False
    """A child goes on if its parent ends before it."""

    @property
    def count(self) -> int:
        """Return the number of children, or of items, if how many a child gets is not known before."""
        if self.items is None:
            return 1
        size = self.batch or 1
        return (len(self.items) + size - 1) // size
