"""Where the example of the demo is: in the clone, or beside an installed package."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from workflow_engine.definition_text import read_definition
from workflow_engine.demo.processes import DemoFailed

DEFINITION = "examples/order_fulfilment.yaml"
ORDERS = "examples/orders.jsonl"
NODES = "examples.shop"
"""The module that registers the Python nodes of the definition."""


@dataclass(frozen=True)
class Example:
    """The order workflow; `folder` is to be on the path of Python for its nodes to be found."""

    folder: Path

    @classmethod
    def find(cls) -> Example:
        """Raises DemoFailed where there is none."""
        for file in _candidates():
            if file.is_file():
                return cls(file.parent.parent)
        raise DemoFailed(
            f"{DEFINITION} was not installed with the workflow engine: run the demo from a clone (make demo)"
        )

    def definition(self) -> dict[str, Any]:
        path = self.folder / DEFINITION
        definition: dict[str, Any] = read_definition(path.read_text(encoding="utf-8"), name=path.name)
        return definition

    def orders(self, count: int) -> list[dict[str, Any]]:
        """The first orders of the file, which begins again, with other ids, when it is not long enough."""
        lines = (self.folder / ORDERS).read_text(encoding="utf-8").splitlines()
        orders = [json.loads(line) for line in islice(cycle(lines), count)]
        for i in range(len(lines), count):
            orders[i]["orderId"] += f"-{i // len(lines) + 1}"
        return orders


def _candidates() -> Iterator[Path]:
    yield Path(__file__).parents[2] / DEFINITION
    # A wheel puts it below a folder `share`; where that is depends on the way of installing.
    distribution = importlib.metadata.distribution("workflow-engine")
    for file in distribution.files or ():
        if file.as_posix().endswith(DEFINITION):
            yield Path(str(distribution.locate_file(file))).resolve()
