"""The work that goes on while things break, and what comes of it when nothing does.

An order has branches, joins, a wait, a retry and ten nodes with a side effect: a line in a file outside the
engine, written with O_APPEND, so that what really happened can be held against the journal. Each node's
output is computed from its inputs, so one that was skipped, doubled or mixed up shows in the result.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from faults.effects import EffectKind, write_down
from workflow_engine import ExecutionContext, Workflow, WorkflowBuilder, node

FOLDER_VARIABLE, PACE_VARIABLE = "FAULTS_FOLDER", "FAULTS_PACE"
FOLDER = Path(os.environ.get(FOLDER_VARIABLE, os.devnull))
"""Set for workers; the suite loads this module to deploy the workflows, and calls none of its nodes."""

ORDER, BRIEF, POISONED, BLOCKING = "order", "brief", "poisoned", "blocking"

SOURCES: Mapping[str, Sequence[str]] = {
    "receive": ("begin",),
    "reserve": ("receive",),
    "domestic": ("reserve",),
    "abroad": ("reserve",),
    "charge": ("receive",),
    "receipt": ("charge",),
    "remind": ("receive",),
    "pack": ("domestic", "abroad", "receipt", "remind"),
    "weigh": ("pack",),
    "ship": ("weigh",),
    "notify": ("ship",),
}
"""The nodes with side effects, each with those whose outputs it computes with."""
LAST = {ORDER: "notify", BRIEF: "reserve", BLOCKING: "receive"}
"""The end of each workflow that completes."""


def nodes_of(workflow_id: str, number: int) -> set[str]:
    """The nodes with side effects that an undisturbed run of this order runs."""
    needed = {LAST[workflow_id]}
    for name in reversed(list(SOURCES)):
        if name in needed:
            needed.update(_taken(SOURCES[name], number))
    return needed - {"begin"}


def undisturbed_result(workflow_id: str, number: int) -> int:
    """The result of an undisturbed run of this order."""
    return _output(LAST[workflow_id], number)


def _output(name: str, number: int) -> int:
    if name == "begin":
        return number
    return _mixed(name, [_output(source, number) for source in _taken(SOURCES[name], number)])


def _taken(sources: Sequence[str], number: int) -> list[str]:
    untaken = "abroad" if number % 2 == 0 else "domestic"
    return [name for name in sources if name != untaken]


def _mixed(name: str, inputs: Sequence[int]) -> int:
    return (31 * sum(inputs) + list(SOURCES).index(name)) % 1_000_003


# -- the workflows -------------------------------------------------------------------------------------------


def workflows(hops: str) -> list[Workflow]:
    """The same work whichever way it goes, `spread` or `inline`."""
    return [make(hops) for make in (_order, _brief, _poisoned, _blocking)]


def _order(hops: str) -> Workflow:
    flow = WorkflowBuilder(ORDER, settings={"hops": hops})
    step = {
        name: flow.python(name, "faults.step", arguments={"inputs": [f"{{{{ {sources[0]} }}}}"]})
        for name, sources in SOURCES.items()
        if name not in ("receive", "charge", "pack")
    }
    receive = flow.python("receive", "faults.step", arguments={"inputs": ["{{ begin.number }}"]})
    is_domestic = flow.condition("isDomestic", expression="{{ begin.number % 2 == 0 }}")
    charge = flow.python(
        "charge",
        "faults.step",
        arguments={"inputs": ["{{ receive }}"], "fails": 1},
        retry={"maxAttempts": 3, "waitDuration": 200},
    )
    cool_off = flow.delay("coolOff", duration=1, unit="seconds")
    together = flow.merge("together")
    pack = flow.python("pack", "faults.step", arguments={"inputs": "{{ together }}"})

    flow.trigger("begin") >> receive
    receive >> step["reserve"] >> is_domestic
    receive >> charge >> step["receipt"]
    receive >> cool_off >> step["remind"]
    is_domestic["true"] >> step["domestic"]
    is_domestic["false"] >> step["abroad"]
    [step["domestic"], step["abroad"], step["receipt"], step["remind"]] >> together
    together >> pack >> step["weigh"] >> step["ship"] >> step["notify"]
    return flow.build()


def _brief(hops: str) -> Workflow:
    flow = WorkflowBuilder(BRIEF, settings={"hops": hops})
    receive = flow.python("receive", "faults.step", arguments={"inputs": ["{{ begin.number }}"]})
    reserve = flow.python("reserve", "faults.step", arguments={"inputs": ["{{ receive }}"]})
    flow.trigger("begin") >> receive >> reserve
    return flow.build()


def _poisoned(hops: str) -> Workflow:
    flow = WorkflowBuilder(POISONED, settings={"hops": hops})
    receive = flow.python("receive", "faults.step", arguments={"inputs": ["{{ begin.number }}"]})
    flow.trigger("begin") >> receive >> flow.python("poison", "faults.poison")
    return flow.build()


def _blocking(hops: str) -> Workflow:
    flow = WorkflowBuilder(BLOCKING, settings={"hops": hops})
    arguments = {"inputs": ["{{ begin.number }}"], "seconds": "{{ begin.seconds }}"}
    flow.trigger("begin") >> flow.python("receive", "faults.step", arguments=arguments)
    return flow.build()


# -- what their nodes do -------------------------------------------------------------------------------------


@node("faults.step")
def step(
    context: ExecutionContext,
    inputs: list[int] | dict[str, int],
    fails: int = 0,
    seconds: float | None = None,
) -> int:
    """Takes a while, then has its side effect and computes its output; its first attempts may fail."""
    write_down(FOLDER, EffectKind.ENTERED, context)
    time.sleep(_pace(context.idempotency_key) if seconds is None else seconds)
    if context.attempt <= fails:
        write_down(FOLDER, EffectKind.FAILED, context)
        raise ConnectionError(f"attempt {context.attempt} fails as it should")
    write_down(FOLDER, EffectKind.DONE, context)
    return _mixed(context.current_node_id, list(inputs.values() if isinstance(inputs, dict) else inputs))


@node("faults.poison")
def poison(context: ExecutionContext) -> None:
    """Kills its process each time."""
    write_down(FOLDER, EffectKind.ENTERED, context)
    os.kill(os.getpid(), signal.SIGKILL)


def _pace(key: str) -> float:
    """How long a node takes, in seconds: the same each time it runs."""
    shortest, longest = map(float, os.environ[PACE_VARIABLE].split("-"))
    return random.Random(key).uniform(shortest, longest)
