"""Reasons of executions and nodes that wait for a slot of a limit."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_engine.control.explain import commands
from workflow_engine.control.explain.explanation import Code
from workflow_engine.control.explain.facts import Facts
from workflow_engine.control.explain.reason import Account, Reason, capital, json_time, listed, short
from workflow_engine.postgres.executions.diagnostics import WaitFacts
from workflow_engine.postgres.limits import SlotStanding


def limited_execution(facts: Facts) -> Reason | None:
    """Return why an execution as a whole waits for a slot; None if it does not."""
    own = [slot for slot in facts.lacking if slot.node_id is None]
    return _limited(facts, None, own) if own else None


def limited_node(facts: Facts, wait: WaitFacts) -> Reason:
    """Return why a node waits for a slot."""
    return _limited(facts, wait.node_id, [slot for slot in facts.lacking if slot.node_id == wait.node_id])


def _limited(facts: Facts, node_id: str | None, slots: Sequence[SlotStanding]) -> Reason:
    what = f"node {node_id}" if node_id else "the execution"
    slot = next((each for each in slots if each.is_in_line), slots[0] if slots else None)
    if slot is None:
        granted = f"{capital(what)} has just been granted its slots."
        return Reason.written(Code.LIMITED, Account(granted, advice="it goes on by itself"), node_id)
    is_full = slot.concurrency is not None and slot.held >= slot.concurrency
    place = f" as number {slot.position:,} in line" if slot.position else ""
    held = f"{slot.held:,} of {slot.concurrency:,}" if slot.concurrency is not None else f"{slot.held:,}"
    holders = f", by {listed(slot.holders)}" if slot.holders else ""
    rate = f"; {slot.rate:,} may begin within {slot.rate_seconds:g} s" if slot.rate is not None else ""
    more = commands.cli("limits", "set", slot.key, "--concurrency", str(slot.held + 1))
    account = Account(
        f"{capital(what)} waits for a slot of the limit {short(slot.key)!r}{place}: {held} are held"
        f"{holders}{rate}.",
        {
            "key": slot.key,
            "position": slot.position,
            "since": json_time(slot.arrived_at),
            "concurrency": slot.concurrency,
            "rate": slot.rate,
            "rateSeconds": slot.rate_seconds,
            "held": slot.held,
            "holders": list(slot.holders),
            "keys": [each.key for each in slots],
        },
        more if is_full else commands.cli("limits", "list"),
        "lets one more run at a time; without it, it goes on in its turn"
        if is_full
        else "shows the limits and their lines; it goes on in its turn",
    )
    return Reason.written(Code.LIMITED, account, node_id, slot.key)
