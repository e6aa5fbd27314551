"""A producer that starts many executions with one call, as a program: of a workflow, in a turn, so many."""

from __future__ import annotations

import sys

from workflow_engine import Settings, Start, WorkflowClient


def main(workflow: str, turn: int, number: int) -> None:
    """Start executions whose data has the turn and their place in the call."""
    starts = [Start({"turn": turn, "place": place}) for place in range(number)]
    WorkflowClient(Settings()).start_many(workflow, starts)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
