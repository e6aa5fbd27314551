"""The work that is done while things break, and its result when nothing does.

An order has branches, joins, a wait, a retry and ten nodes with a side effect: a line in a file outside the
engine, written with O_APPEND, so that what really happened can be compared with the journal. Each node's
output is computed from its inputs, so a node that was skipped, doubled or mixed up shows in the result.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faults.effects import EffectKind, write_down
from faults.endings import ENDINGS, ENDLESS
from workflow_engine import ExecutionContext, Workflow, WorkflowBuilder, node, waiting

FOLDER_VARIABLE, PACE_VARIABLE = "FAULTS_FOLDER", "FAULTS_PACE"
FOLDER = Path(os.environ.get(FOLDER_VARIABLE, os.devnull))
"""Set for workers; the suite loads this module to deploy the workflows, and calls none of its nodes."""

ORDER, BRIEF, POISONED, BLOCKING = "order", "brief", "poisoned", "blocking"
PARCELS = "parcels"
"""The node of an order that is a loop."""
ENDING, ENDLESSLY = "ending", "endlessly"
ONCE = "once"
"""The workflow of which no node may be repeated after a crash."""
ENDLESS_FOR = 2
"""The timeout of a node that is not expected to end, in seconds."""

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
    """Return the nodes with side effects that an undisturbed run of this order runs."""
    needed = {LAST[workflow_id]}
    for name in reversed(list(SOURCES)):
        if name in needed:
            needed.update(_taken(SOURCES[name], number))
    return needed - {"begin"}


def nodes_of_an_order(walk: str) -> int:
    """Return how many nodes with side effects an order has, those of its loop's children included."""
    own = len(nodes_of(ORDER, 0))
    return own + len(parcels_of(0)) * len(nodes_of(BRIEF, 0)) if has_loop(walk) else own


def has_loop(walk: str) -> bool:
    """Return whether an order has a loop on this walk."""
    return "concurrency" in WALKS[walk]


def parcels_of(number: int) -> list[int]:
    """Return the numbers of the brief orders that the loop of an order runs, on the walk that has one."""
    return [3 * number, 3 * number + 1, 3 * number + 2]


def undisturbed_result(workflow_id: str, number: int) -> int:
    """Return the result of an undisturbed run of this order."""
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


WALKS: Mapping[str, Mapping[str, Any]] = {
    "spread": {"hops": "spread"},
    "inline": {"hops": "inline"},
    "pure": {"pure": "inline"},
    "parallel": {"concurrency": 4},
}
"""The settings of the workflows, by the way in which workers walk through them."""


def workflows(walk: str) -> list[Workflow]:
    """Return the workflows, which differ only in their settings."""
    return [make(WALKS[walk]) for make in (_brief, _order, _poisoned, _blocking, _ending, _endlessly, _once)]


def _order(settings: Mapping[str, Any]) -> Workflow:
    flow = WorkflowBuilder(ORDER, settings=settings)
    step = {
        name: flow.python(name, "faults.step", arguments={"inputs": [f"{{{{ {sources[0]} }}}}"]})
        for name, sources in SOURCES.items()
        if name not in ("receive", "charge", "pack", "ship")
    }
    # Pure nodes before and behind those with side effects, one of which rests on what they have computed.
    declare = flow.python("declare", "faults.declare", arguments={"weight": "{{ weigh }}"})
    step["ship"] = flow.python("ship", "faults.step", arguments={"inputs": ["{{ declare.weight }}"]})
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
    last = together >> pack >> step["weigh"] >> declare
    if "concurrency" in settings:
        # Each is an execution of its own, with side effects and a result that are checked like any other's.
        items = [{"number": f"{{{{ begin.number * 3 + {place} }}}}"} for place in range(3)]
        last = last >> flow.loop(PARCELS, items, workflow=BRIEF, config={"concurrency": 2})
    last >> step["ship"] >> step["notify"]
    return flow.build()


def _brief(settings: Mapping[str, Any]) -> Workflow:
    flow = WorkflowBuilder(BRIEF, settings=settings)
    receive = flow.python("receive", "faults.step", arguments={"inputs": ["{{ begin.number }}"]})
    reserve = flow.python("reserve", "faults.step", arguments={"inputs": ["{{ receive }}"]})
    flow.trigger("begin") >> receive >> reserve
    return flow.build()


def _poisoned(settings: Mapping[str, Any]) -> Workflow:
    flow = WorkflowBuilder(POISONED, settings=settings)
    receive = flow.python("receive", "faults.step", arguments={"inputs": ["{{ begin.number }}"]})
    declare = flow.python("declare", "faults.declare", arguments={"weight": "{{ receive }}"})
    flow.trigger("begin") >> receive >> declare >> flow.python("poison", "faults.poison")
    return flow.build()


def _blocking(settings: Mapping[str, Any]) -> Workflow:
    flow = WorkflowBuilder(BLOCKING, settings=settings)
    arguments = {"inputs": ["{{ begin.number }}"], "seconds": "{{ begin.seconds }}"}
    flow.trigger("begin") >> flow.python("receive", "faults.step", arguments=arguments)
    return flow.build()


def _ending(settings: Mapping[str, Any]) -> Workflow:
    return _ending_badly(settings, ENDING, None)


def _endlessly(settings: Mapping[str, Any]) -> Workflow:
    return _ending_badly(settings, ENDLESSLY, ENDLESS_FOR)


def _once(settings: Mapping[str, Any]) -> Workflow:
    flow = WorkflowBuilder(ONCE, settings=settings)
    arguments = {"inputs": ["{{ begin.number }}"]}
    last = flow.trigger("begin")
    for name in ("reserve", "charge", "ship"):
        last = last >> flow.python(name, "faults.step", arguments=arguments, on_crash="fail")
    return flow.build()


def _ending_badly(settings: Mapping[str, Any], workflow_id: str, timeout: int | None) -> Workflow:
    flow = WorkflowBuilder(workflow_id, settings=settings)
    arguments = {"how": "{{ begin.how }}", "waits": "{{ begin.waits }}"}
    flow.trigger("begin") >> flow.python("end", "faults.end_badly", arguments=arguments, timeout=timeout)
    return flow.build()


# -- what their nodes do -------------------------------------------------------------------------------------


@node("faults.step")
def step(
    context: ExecutionContext,
    inputs: list[int] | dict[str, int],
    fails: int = 0,
    seconds: float | None = None,
) -> int:
    """Take a while, then have a side effect and compute an output; the first attempts may fail."""
    write_down(FOLDER, EffectKind.ENTERED, context)
    time.sleep(_pace(context.idempotency_key) if seconds is None else seconds)
    if context.attempt <= fails:
        write_down(FOLDER, EffectKind.FAILED, context)
        raise ConnectionError(f"attempt {context.attempt} fails as intended")
    write_down(FOLDER, EffectKind.DONE, context)
    return _mixed(context.current_node_id, list(inputs.values() if isinstance(inputs, dict) else inputs))


@node("faults.declare", pure=True)
def declare(weight: int) -> dict[str, int]:
    """Compute, and touch nothing."""
    return {"weight": weight}


@node("faults.poison")
def poison(context: ExecutionContext) -> None:
    """Kill the process each time."""
    write_down(FOLDER, EffectKind.ENTERED, context)
    os.kill(os.getpid(), signal.SIGKILL)


@node("faults.end_badly")
def end_badly(context: ExecutionContext, how: str, waits: bool) -> Any:
    """End in one of the bad ways, at once or after a wait."""
    if waits and context.wake is None:
        return waiting(seconds=0.2)
    write_down(FOLDER, EffectKind.ENTERED, context)
    (ENDINGS | ENDLESS)[how].act()
    return f"it should have ended badly, but returned: {how}"


def _pace(key: str) -> float:
    """Return how long a node takes, in seconds: the same each time it runs."""
    shortest, longest = map(float, os.environ[PACE_VARIABLE].split("-"))
    return random.Random(key).uniform(shortest, longest)
