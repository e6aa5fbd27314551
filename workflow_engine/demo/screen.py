"""What the demo shows: a live table on a terminal or else periodic lines, and tables at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import quote

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from workflow_engine.definition.workflow import Workflow
from workflow_engine.demo.progress import Progress
from workflow_engine.execution.states import ExecutionStatus, NodeStatus
from workflow_engine.postgres.executions.queries import Execution, NodeExecution

RUNS = {"Done": NodeStatus.COMPLETED, "Waited": NodeStatus.WAITING, "Retried": NodeStatus.RETRYING}
"""The possible results of a node's run, by the headings of their columns."""

LINE_INTERVAL = 2.0
"""Seconds between two lines if there is no terminal to draw a table on."""

NameOf = Callable[[str], str]
"""Returns the name of a process, such as `worker1:4711`, for its name in the journal."""


class Screen:
    """Prints the demo on a console, which need not be a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._next_line = LINE_INTERVAL

    def say(self, message: str, style: str = "") -> None:
        """Print a message."""
        self._console.print(message, style=style, markup=False, highlight=False, soft_wrap=True)

    def show_table(self, table: Table) -> None:
        """Print a table."""
        self._console.print(table)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Within the block, let `update` redraw in place if this is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False) as self._live:
            yield
        self._live = None

    def update(self, progress: Progress, workflow: Workflow, name_of: NameOf) -> None:
        """Show the progress: redraw the table, or print a line every `LINE_INTERVAL` seconds."""
        if self._live is not None:
            self._live.update(_picture(progress, workflow, name_of), refresh=True)
        elif progress.seconds >= self._next_line:
            self._next_line = progress.seconds + LINE_INTERVAL
            self.say(f"  {_state(progress)}")


def _state(progress: Progress) -> str:
    completed = progress.statuses[ExecutionStatus.COMPLETED]
    pace = progress.nodes / progress.seconds if progress.seconds else 0
    return (
        f"{progress.seconds:4.1f} s   {len(progress.started)} of {len(progress.orders)} orders started, "
        f"{completed} COMPLETED   {pace:,.0f} nodes a second"
    )


def _picture(progress: Progress, workflow: Workflow, name_of: NameOf) -> RenderableType:
    statuses = "   ".join(f"{status} {count}" for status, count in sorted(progress.statuses.items()))
    bar = Table.grid()  # a bar by itself does not end its line
    bar.add_row(ProgressBar(total=len(progress.orders), completed=len(progress.journals), width=79))
    return Group(_state(progress), statuses, bar, _nodes(progress, workflow, name_of))


def _nodes(progress: Progress, workflow: Workflow, name_of: NameOf) -> Table:
    """Return a table of the nodes with the results of their runs, mean durations and shares of workers."""
    ran: dict[str, list[NodeExecution]] = defaultdict(list)
    for row in progress.rows:
        ran[row.node_id].append(row)
    shares = {id: Counter(worker_of(row, name_of) for row in _done(rows)) for id, rows in ran.items()}
    workers = sorted({worker for share in shares.values() for worker in share})
    table = Table("Node", "Label", box=None, pad_edge=False)
    for heading in (*RUNS, "Mean", *workers):
        table.add_column(heading, justify="right")
    for node in workflow.nodes:
        rows, share = ran[node.id], shares.get(node.id, Counter())
        became = Counter(row.status for row in rows)
        counts = [str(became[status] or "") for status in RUNS.values()]
        shares_of_it = [str(share[worker] or "") for worker in workers]
        table.add_row(node.id, node.label, *counts, _mean_ms(_done(rows)), *shares_of_it)
    return table


def _done(rows: Iterable[NodeExecution]) -> list[NodeExecution]:
    """Return the rows of nodes that a worker has finished: not those that wait or will be retried."""
    return [row for row in rows if row.worker and row.status.is_final]


def _mean_ms(rows: Sequence[NodeExecution]) -> str:
    durations = [duration_ms(row) for row in rows]
    return f"{sum(durations) / len(durations):.1f} ms" if durations else ""


def duration_ms(row: NodeExecution) -> float:
    """Return the duration of one run of a node, with fractions if the run was the last one."""
    if row.completed_at is None:
        return float(row.duration_ms or 0)
    return (row.completed_at - row.started_at).total_seconds() * 1000


def worker_of(row: NodeExecution, name_of: NameOf) -> str:
    """Return the name of a row's worker, without its process."""
    return name_of(row.worker or "").partition(":")[0]


def durations_ms(executions: Sequence[Execution]) -> list[float]:
    """Return the time from start to end of each execution, including time in queues, shortest first."""
    ended = [(each.created_at, each.completed_at) for each in executions if each.completed_at is not None]
    return sorted((completed - created).total_seconds() * 1000 for created, completed in ended)


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Return the value that this fraction of the others does not exceed (nearest rank)."""
    return ordered[min(int(fraction * len(ordered)), len(ordered) - 1)]


def processes_table(progress: Progress, name_of: NameOf) -> Table:
    """Return a table of the number of nodes that each process has finished."""
    ran = Counter(name_of(row.worker or "") for row in _done(progress.rows))
    table = Table("Process", box=None, pad_edge=False)
    table.add_column("Nodes", justify="right")
    for process, count in sorted(ran.items()):
        table.add_row(process, str(count))
    return table


def path_table(journal: Sequence[NodeExecution], name_of: NameOf) -> Table:
    """Return a table of the path of one execution: each run of a node with its result, time and process.

    An error takes the place of the label, which appears again with the next attempt.
    """
    table = Table(box=None, pad_edge=False)
    for heading in ("After", "Node", "Label", "Attempt", "Status", "Way out", "Process", "Time"):
        table.add_column(heading, justify="right" if heading in {"After", "Attempt", "Time"} else "left")
    began = journal[0].started_at
    for row in journal:
        table.add_row(
            f"{(row.started_at - began).total_seconds():.2f} s",
            row.node_id,
            Text(row.error, "red") if row.error else row.label,
            str(row.attempt),
            row.status.value,
            ", ".join(handle for handle in row.handles if handle),
            name_of(row.worker) if row.worker else "",
            f"{duration_ms(row):.1f} ms" if row.worker else "",
        )
    return table


def flower_tasks_url(flower: str, workflow_id: str, execution_id: str) -> str:
    """Return the URL of Flower's list of the tasks of one execution.

    That page takes no search from the URL except `name`, which it puts unchanged in front of the search box's
    text: a name with a second term behind it searches for both.
    """
    return f"{flower}/tasks?name={quote(f'{workflow_id} kwargs:execution_id={execution_id}', safe=':=')}"
