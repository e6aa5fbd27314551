"""The functions in Postgres that move executions, a file each, named with their version.

A function of a release is never changed. A change is written as its next version, in a file of its own, and a
new migration installs it beside the old one. So in a rolling deploy workers of the older
release go on calling the body that they were written for. A later release drops what no supported one calls.

- in `starts/`, new executions: `start_execution` writes one, and `start_executions` many, with one statement
  for each table
- `load_snapshot`: read an execution and its journal, from which a context is rebuilt
- `commit_node`: append a node's journal row and move its execution on; every hop calls it. Rows of pure nodes
  before it come along, all or none
- `follow_commit`: do what few commits bring along, such as to open a wait
- `save_part`: store what a part of a node's work has returned
- `commit_nodes`: only workers of an older build call it, where `commit_node` takes no rows of pure nodes
- `missed_commits`: decide whether a row may follow those of siblings, which its node has not seen
- `move_execution`: move an execution for an operator
- `commit_by_hand`: append the result that an operator gives a node
- `amend_journal`: change an output or a variable before an execution goes on
- `pause_at_breakpoint`: record that a commit or a start has paused its execution before a node
- `end_execution`: end an execution; commits, operators and timeouts have no other way
- `children/`: those of a wait. `open_children`, `go_on_with_children`, `child_reopened` are part of the
  transaction of the commit that opens it, or of a child's end. `commit_iteration` commits what a node makes
  of the only child of a wait, which may go on with another without a row. `outstanding_follow_ups` reads what
  a commit had started or woken whose reply was lost. `tend_children` starts and cancels them, outside of any
  hop
- in `queues/`, until when nodes with a `queueTimeout` have to begin: `begin_queue_time`, `restart_queue_time`
- in `checks/`, the rules of the rows that the tables take: `check_execution` and `check_node_execution`
- `context_at_rest`: read the context from the journal, where a commit did not bring it along
- in `waits/`, `request_wake` and `take_wake`: the only writers of `wake_requested`
- in `limits/`, the slots of limits: an owner takes them or stands in line (`take_slots`, `stand_in_line`),
  frees them with its commit or end (`free_slots`), and the next in line gets them (`grant_slots`).
  `look_at_limits` finds what dead processes held. All use `slot_room`, `limits_left` and `lock_limits`

They are functions because Postgres keeps the plans of their statements with the connection. Planning takes as
long as executing them, or longer. They need no session of their own: behind a pooler in transaction mode
each of the pooler's connections has its plans.
"""

from __future__ import annotations

from importlib import resources


def definition(name: str, schema: str) -> str:
    """Return the statement that creates a function in a schema; `name` is its file, as `commit_node_v1`."""
    return (
        resources.files(__name__)
        .joinpath(f"{name}.sql")
        .read_text(encoding="utf-8")
        .replace("{s}", f'"{schema}"')
    )
