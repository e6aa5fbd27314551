"""What a newer release of a team's code has in addition to `recorded`."""

from __future__ import annotations

from support.nodes.recorded import echo
from workflow_engine import ExecutionContext, node


@node("shop.render")
def render(context: ExecutionContext) -> str:
    echo(context)
    return "rendered"
