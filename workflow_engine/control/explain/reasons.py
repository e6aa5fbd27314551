"""Reasons: what keeps each open node of an execution from going on, concluded from facts alone."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

from workflow_engine.control.explain import commands
from workflow_engine.control.explain.due_nodes import due
from workflow_engine.control.explain.explanation import Code
from workflow_engine.control.explain.facts import Facts
from workflow_engine.control.explain.limited import limited_execution
from workflow_engine.control.explain.reason import (
    Account,
    Reason,
    at_time,
    in_seconds,
    json_time,
    names_of,
    short,
)
from workflow_engine.control.explain.waiting_nodes import waiting
from workflow_engine.execution.records import FORMAT
from workflow_engine.execution.states import ACTIVE, ExecutionStatus
from workflow_engine.redis.lock import Hold


def reasons(facts: Facts) -> list[Reason]:
    """Return a reason for each open node; one for the whole execution if it has ended or is paused."""
    execution = facts.execution
    if execution.status.is_finished:
        return [_ended(facts)]
    if execution.status is ExecutionStatus.PAUSED:
        pause = facts.pause
        by = short(pause.actor) if pause and pause.actor else ""
        return [Reason(Code.PAUSED, None, by, partial(_paused, facts))]
    if execution.format > FORMAT:
        return [_newer_release(facts)]
    if (limited := limited_execution(facts)) is not None:
        return [limited]
    found = [_held(facts, hold) for hold in facts.holds]
    nodes = {reason.node_id for reason in found}
    found += [waiting(facts, wait) for wait in facts.waits if wait.node_id not in nodes]
    has_woken = any(wait.is_over for wait in facts.waits)
    if not facts.holds and not has_woken and (execution.status in ACTIVE or not facts.waits):
        next_node = facts.walk.due[0] if facts.walk is not None and facts.walk.due else None
        found.insert(0, due(facts, next_node, execution.due_queue))
    return found


def _ended(facts: Facts) -> Reason:
    execution = facts.execution
    at = at_time(execution.completed_at)
    evidence = {"status": execution.status.value, "completedAt": json_time(execution.completed_at)}
    if execution.status is ExecutionStatus.COMPLETED:
        show = commands.cli("show", execution.id)
        account = Account(f"It has completed, {at}.", evidence, show, "shows its result")
        return Reason.written(Code.FINISHED, account, subject="COMPLETED")
    if execution.status is ExecutionStatus.CANCELLED:
        events = commands.cli("events", execution.id)
        account = Account(f"It was cancelled, {at}.", evidence, events, "shows who cancelled it and why")
        return Reason.written(Code.FINISHED, account, subject="CANCELLED")
    node_id = (execution.error_details or {}).get("nodeId")
    where = f" at node {node_id}" if node_id else ""
    account = Account(
        f"It has failed{where}, {at}: {short(execution.error)}",
        {**evidence, "error": execution.error},
        commands.cli("retry", execution.id),
        "resumes it from the failed node; mend the cause first",
    )
    return Reason.written(Code.FINISHED, account, node_id if isinstance(node_id, str) else None, "FAILED")


def _paused(facts: Facts) -> Account:
    pause, execution = facts.pause, facts.execution
    sentence = "It is paused"
    evidence: dict[str, Any] = {}
    if pause is not None:
        sentence += f" since {at_time(pause.at)}"
        sentence += f", by {short(pause.actor)}" if pause.actor else ""
        sentence += f": {short(pause.reason)}" if pause.reason else "; no reason was given"
        evidence = {"since": json_time(pause.at), "by": pause.actor, "reason": pause.reason}
    resume = commands.cli("resume", execution.id)
    return Account(f"{sentence}.", evidence, resume, "lets it go on from where it stopped")


def _newer_release(facts: Facts) -> Reason:
    form = facts.execution.format
    account = Account(
        "It was written by a newer release of the engine, and only workers of that release go on with it.",
        {"format": form, "known": FORMAT, "workers": names_of(facts.workers)},
        commands.worker(facts.execution.due_queue),
        "starts a worker, once the newer release is installed where it runs",
    )
    return Reason.written(Code.UNKNOWN_TYPE, account, subject=f"format {form}")


def _held(facts: Facts, hold: Hold) -> Reason:
    holder = hold.holder
    place = f"{holder.instance}:{holder.process}"
    evidence: dict[str, Any] = {
        "instance": holder.instance,
        "process": holder.process,
        "since": holder.since,
        "lockSecondsLeft": round(hold.seconds_left, 1),
    }
    is_gone = holder.life in facts.disconnected
    if is_gone or hold.is_unrenewed:
        return _held_by_dead(facts, hold, place, {**evidence, "isConnected": not is_gone})
    progress = facts.progress.get(holder.token)
    node_id = (progress and progress.node_id) or holder.node_id
    since = datetime.fromisoformat((progress and progress.began_at) or holder.since)
    sentence = f"Node {node_id} runs on {place} since {at_time(since)}"
    if progress is not None and progress.is_of_the_node:
        share = [f"{progress.fraction:.0%}"] if progress.fraction is not None else []
        told = ", ".join([*share, *([short(progress.message)] if progress.message else [])])
        sentence += f" ({told})" if told else ""
        evidence["progress"] = {
            "fraction": progress.fraction,
            "message": progress.message,
            "at": progress.at,
        }
    show = commands.cli("show", facts.execution.id)
    account = Account(f"{sentence}.", evidence, show, "shows how far it has come; nothing has to be done")
    return Reason.written(Code.RUNNING, account, node_id, place)


def _held_by_dead(facts: Facts, hold: Hold, place: str, evidence: dict[str, Any]) -> Reason:
    holder, queue = hold.holder, facts.execution.due_queue
    is_gone = holder.life in facts.disconnected
    what = (
        "is gone: it has no connection to Redis" if is_gone else "no longer renews its lock; gone or frozen"
    )
    if is_gone and facts.workers:
        until = "Workers free its lock within seconds"
    else:
        until = f"The lock expires in {in_seconds(hold.seconds_left)}"
    if facts.workers is not None:
        evidence["workersOfInstance"] = names_of(
            [worker for worker in facts.workers if worker.instance == holder.instance]
        )
    account = Account(
        f"Node {holder.node_id} was run by {place}, which {what}. {until}.",
        {**evidence, "expiresIn": round(hold.seconds_left, 1)},
        None if facts.workers else commands.worker(queue),
        "the workers that live run the node again after that"
        if facts.workers
        else "starts a worker, which runs the node again after that",
    )
    return Reason.written(Code.HELD_BY_DEAD, account, holder.node_id, place)
