"""What nodes have logged, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from workflow_engine.postgres.executions.queries import LogLine, NodeLog
from workflow_engine.presentation.phrases import sanitise

COLOURS = {"CRITICAL": "red", "ERROR": "red", "WARNING": "yellow"}


def draw_logs(logs: Sequence[NodeLog]) -> Iterator[Text]:
    """Yield the lines of each attempt, under a line that names it."""
    yield Text()
    if not logs:
        yield Text("No log lines are kept; WORKFLOW_ENGINE_NODE_LOG_LIMIT on the workers sets how many are.")
    for log in logs:
        visit = f" · visit {log.visit}" if log.visit > 1 else ""
        yield Text(f"{log.seq:>3}  {log.node_id} {log.status}{visit} · attempt {log.attempt}", "bold")
        if log.dropped:
            yield Text(f"     … {log.dropped:,} lines before these were not kept", "dim")
        for line in log.lines:
            yield from _drawn(line)


def _drawn(line: LogLine) -> Iterator[Text]:
    text = f"{line.message}\n{line.exception}" if line.exception else line.message
    first, *others = sanitise(text).splitlines() or [""]
    colour = COLOURS.get(line.level, "")
    yield Text.assemble(
        (f"     {line.time}  {line.level:<8} {sanitise(line.logger)}: ", "dim"), (first, colour)
    )
    for other in others:
        yield Text(f"       {other}", colour)
