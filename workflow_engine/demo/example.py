"""Where the example of the demo is: in the clone, or beside an installed package."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from workflow_engine import DISTRIBUTION
from workflow_engine.definition.text import read_definition
from workflow_engine.demo.processes import DemoFailed

DEFINITION = "examples/order_fulfilment.yaml"
ORDERS = "examples/orders.jsonl"
NODES = "examples.shop"
"""The module that registers the Python nodes of the definition."""


@dataclass(frozen=True)
class Example:
    """The order workflow; `folder` has to be on Python's path for its nodes to be found."""

    folder: Path

    @classmethod
    def find(cls) -> Example:
        """Find the example. Raises DemoFailed if there is none."""
        for file in _candidates():
            if file.is_file():
                return cls(file.parent.parent)
        raise DemoFailed(
            f"{DEFINITION} was not installed with the workflow engine: run the demo from a clone (make demo)"
        )

    def definition(self) -> dict[str, Any]:
        """Read the definition of the workflow."""
        path = self.folder / DEFINITION
        definition: dict[str, Any] = read_definition(path.read_text(encoding="utf-8"), name=path.name)
        return definition

    def orders(self, count: int) -> list[dict[str, Any]]:
        """Return the first orders of the file; if it has too few, it is read again with other ids."""
        lines = (self.folder / ORDERS).read_text(encoding="utf-8").splitlines()
        orders = [json.loads(line) for line in islice(cycle(lines), count)]
        for i in range(len(lines), count):
            orders[i]["orderId"] += f"-{i // len(lines) + 1}"
        return orders


def _candidates() -> Iterator[Path]:
    yield Path(__file__).parents[2] / DEFINITION
    # A wheel puts it below a folder `share`, whose place depends on how the wheel was installed.
    distribution = importlib.metadata.distribution(DISTRIBUTION)
    for file in distribution.files or ():
        if file.as_posix().endswith(DEFINITION):
            yield Path(str(distribution.locate_file(file))).resolve()
