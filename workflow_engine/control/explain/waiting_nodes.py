"""Reasons of nodes with an open wait: a time, events, children, a retry, or code that a worker lacks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any

from workflow_engine.control.explain import commands
from workflow_engine.control.explain.due_nodes import due
from workflow_engine.control.explain.explanation import Code
from workflow_engine.control.explain.facts import Facts
from workflow_engine.control.explain.limited import limited_node
from workflow_engine.control.explain.reason import (
    NAMES_SHOWN,
    Account,
    Reason,
    at_time,
    json_time,
    listed,
    short,
    time_left,
)
from workflow_engine.execution.states import WaitType
from workflow_engine.nodes.registry import registry
from workflow_engine.postgres.executions.diagnostics import KeptEvent, WaitFacts

LATE = 5.0
"""Seconds after which a wait that is over, and that no worker has noticed, is late."""


def waiting(facts: Facts, wait: WaitFacts) -> Reason:
    """Return why a node with an open wait does not go on."""
    if wait.needs is not None and wait.is_over:
        return _unknown_type(facts, wait)
    if wait.is_over:
        queue = facts.queue_of.get(wait.node_id, facts.execution.queue)
        return due(facts, wait.node_id, queue, wait)
    if wait.ends_at is not None and _is_late(facts, wait.ends_at) and facts.workers == []:
        return _not_woken(facts, wait, wait.ends_at)
    if wait.type is WaitType.LIMIT:
        return limited_node(facts, wait)
    kind = KINDS[wait.type]
    return Reason(kind.code, wait.node_id, kind.subject(wait), partial(kind.account, facts, wait))


def _is_late(facts: Facts, end: datetime) -> bool:
    return (facts.now - end).total_seconds() > LATE


def _waiting_time(facts: Facts, wait: WaitFacts) -> Account:
    end = wait.ends_at
    return Account(
        f"Node {wait.node_id} waits until {at_time(end)}{time_left(facts, end)}.",
        {"until": json_time(end), "since": json_time(wait.since)},
        commands.cli("complete", facts.execution.id, "--node", wait.node_id),
        "ends the wait now; otherwise it ends by itself",
    )


def _error_type(wait: WaitFacts) -> Any:
    return (wait.error_details or {}).get("type")


def _retrying(facts: Facts, wait: WaitFacts) -> Account:
    kind = _error_type(wait)
    error = f"{kind}: {wait.error}" if kind else wait.error
    return Account(
        f"Attempt {wait.attempt} of node {wait.node_id} failed; the next begins at "
        f"{at_time(wait.resume_at)}{time_left(facts, wait.resume_at)}. The error: {short(error)}",
        {
            "attempt": wait.attempt,
            "nextAt": json_time(wait.resume_at),
            "error": wait.error,
            "errorType": kind,
            "worker": wait.worker,
        },
        commands.cli("rerun", facts.execution.id, "--from", wait.node_id),
        "runs it now, as a new visit with a new idempotency key; otherwise it is tried again by itself",
    )


def _error(wait: WaitFacts) -> str:
    kind = _error_type(wait)
    return short(kind if isinstance(kind, str) else wait.error)


def _waiting_events(facts: Facts, wait: WaitFacts) -> Account:
    missing = wait.missing_events
    required = wait.required if isinstance(wait.required, str) else "some"
    names = f"{' or ' if required == 'any' else ', '}".join(missing[:NAMES_SHOWN])
    sentence = (
        f"Node {wait.node_id} waits for the {'event' if len(missing) == 1 else 'events'} {short(names)}"
    )
    sentence += f" with the correlation id {short(wait.correlation_id)!r}" if wait.correlation_id else ""
    sentence += f" until {at_time(wait.expires_at)}" if wait.expires_at else ""
    evidence: dict[str, Any] = {
        "events": missing,
        "required": wait.required,
        "received": list(wait.received),
        "correlationId": wait.correlation_id,
        "expiresAt": json_time(wait.expires_at),
        "since": json_time(wait.since),
    }
    if (similar := _similar(facts.kept_events, missing, wait.correlation_id)) is not None:
        elsewhere = f"execution {similar.execution_id}" if similar.execution_id else "no execution yet"
        sentence += (
            f"; the event {short(similar.name)!r} for {short(similar.correlation_id)!r}, sent "
            f"{at_time(similar.sent_at)}, is kept for {elsewhere}"
        )
        evidence["similarEvent"] = {
            "name": similar.name,
            "correlationId": similar.correlation_id,
            "executionId": similar.execution_id,
            "sentAt": json_time(similar.sent_at),
        }
    to = (
        ("--correlation-id", wait.correlation_id)
        if wait.correlation_id
        else ("--execution", facts.execution.id)
    )
    return Account(
        f"{sentence}.",
        evidence,
        commands.send_event(missing[0], *to) if missing else None,
        "sends it, where the real one will not come; add --payload with its data",
    )


def _first_missing_event(wait: WaitFacts) -> str:
    return next((name for name in wait.events if name not in wait.received), "")


def _similar(kept: Sequence[KeptEvent], names: Sequence[str], correlation_id: str | None) -> KeptEvent | None:
    """Return the kept event that may be meant for this wait: the closest spelling, of those the latest."""

    def closeness(event: KeptEvent) -> float:
        if event.correlation_id == correlation_id:
            return max(difflib.SequenceMatcher(None, event.name, name).ratio() for name in names)
        return difflib.SequenceMatcher(None, event.correlation_id or "", correlation_id or "").ratio()

    return max(kept, key=lambda event: (closeness(event), event.sent_at), default=None) if names else None


def _waiting_children(facts: Facts, wait: WaitFacts) -> Account:
    done = wait.completed + wait.failed
    sentence = f"Node {wait.node_id} waits for its children: {done:,} of {wait.total:,} have ended"
    sentence += f", {wait.failed:,} of them failed" if wait.failed else ""
    evidence: dict[str, Any] = {
        "total": wait.total,
        "running": wait.running,
        "completed": wait.completed,
        "failed": wait.failed,
        "expiresAt": json_time(wait.expires_at),
    }
    command, advice = commands.cli("list", "--children-of", facts.execution.id), "lists its children"
    if (child := facts.open_children.get(wait.node_id)) is not None:
        child_id, status = child
        sentence += f"; the first that has not is {child_id}, which is {status}"
        evidence |= {"child": child_id, "childStatus": status.value}
        command, advice = commands.cli("explain", child_id), "explains that child"
    return Account(f"{sentence}.", evidence, command, advice)


def _unknown_type(facts: Facts, wait: WaitFacts) -> Reason:
    needs = wait.needs or ""
    having = [worker.name for worker in facts.workers or () if worker.knows(needs)]
    without = [worker.name for worker in facts.workers or () if not worker.knows(needs)]
    lacking = without or ([wait.worker] if wait.worker else [])
    sentence = f"Node {wait.node_id} needs {needs!r}, which {listed(lacking) or 'a worker'} does not have"
    sentence += f"; {listed(having)} {'has' if len(having) == 1 else 'have'} it" if having else ""
    sentence += f". It fails at {at_time(wait.needed_until)}" if wait.needed_until else ""
    queue = facts.queue_of.get(wait.node_id, facts.execution.queue)
    extras = list(registry.extras([needs]))
    remedy = (
        f"installs what it needs where the workers run ({', '.join(extras)}); then restart them"
        if extras
        else "starts a worker that has it; name its module in WORKFLOW_ENGINE_IMPORTS there"
    )
    account = Account(
        f"{sentence}.",
        {
            "needs": needs,
            "without": without,
            "having": having,
            "foundMissingBy": wait.worker,
            "nextTryAt": json_time(wait.claimed_until),
            "failsAt": json_time(wait.needed_until),
        },
        f"pip install {' '.join(map(repr, extras))}" if extras else commands.worker(queue),
        remedy,
    )
    return Reason.written(Code.UNKNOWN_TYPE, account, wait.node_id, needs)


def _not_woken(facts: Facts, wait: WaitFacts, end: datetime) -> Reason:
    account = Account(
        f"The wait of node {wait.node_id} was over at {at_time(end)}, but no worker is alive to wake it.",
        {"until": json_time(end), "workers": []},
        commands.worker(facts.queue_of.get(wait.node_id, facts.execution.queue)),
        "starts a worker, which wakes everything that is over",
    )
    return Reason.written(Code.NO_WORKER, account, wait.node_id, facts.execution.queue)


@dataclass(frozen=True)
class Kind:
    """A kind of wait: its code, what such waits may have in common, and what there is to say about one."""

    code: Code
    subject: Callable[[WaitFacts], str]
    account: Callable[[Facts, WaitFacts], Account]


KINDS = {
    WaitType.DELAY: Kind(Code.WAITING_TIME, attrgetter("node_id"), _waiting_time),
    WaitType.CODE: Kind(Code.WAITING_TIME, attrgetter("node_id"), _waiting_time),
    WaitType.EVENTS: Kind(Code.WAITING_EVENTS, _first_missing_event, _waiting_events),
    WaitType.CHILDREN: Kind(Code.WAITING_CHILDREN, attrgetter("node_id"), _waiting_children),
    WaitType.RETRY: Kind(Code.RETRYING, _error, _retrying),
}
