"""Reasons of nodes that should run and do not: their message, its queue and the workers that consume it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workflow_engine.broker.queue_looks import QueueLook
from workflow_engine.control.explain import commands
from workflow_engine.control.explain.explanation import Code
from workflow_engine.control.explain.facts import BROKER, Facts
from workflow_engine.control.explain.reason import (
    Account,
    Reason,
    at_time,
    capital,
    in_seconds,
    json_time,
    listed,
    names_of,
)
from workflow_engine.execution.lost_messages import lost_after
from workflow_engine.postgres.executions.diagnostics import WaitFacts
from workflow_engine.presentation.phrases import quantity
from workflow_engine.redis.worker_heartbeats import WorkerHeartbeat


def due(facts: Facts, node_id: str | None, queue: str, woken: WaitFacts | None = None) -> Reason:
    """Return why a node that should run does not; `woken` is its wait, if it was woken."""
    execution, look, consumers = facts.execution, facts.queues.get(queue), facts.consumers(queue)
    sent_at = facts.moved_at if woken is None else facts.woken_at(woken)
    case = _Case(facts, node_id, queue, sent_at, woken)
    if facts.workers is not None and not consumers and not (look and look.consumers):
        return _not_consumed(case)
    if away := _away(facts, consumers):
        return _given_back(case, away)
    ahead = look.ahead.get(execution.id) if look is not None else None
    is_hidden = look is None or (ahead is None and not look.is_searched)
    if ahead is None and not is_hidden and case.idle > lost_after(facts.stall_after):
        return _stalled(case)
    running, concurrency = (
        sum(worker.running for worker in consumers),
        sum(worker.concurrency for worker in consumers),
    )
    return case.reason(
        Code.QUEUED,
        f"{capital(case.what)} waits in queue {queue!r}{_position(ahead, look)}.",
        {"messagesAhead": ahead, "running": running, "concurrency": concurrency},
        commands.worker(queue),
        "starts one more worker for this queue, if it has to be served sooner",
    )


@dataclass(frozen=True)
class _Case:
    """A node that should run, and where its message should be."""

    facts: Facts
    node_id: str | None
    queue: str
    sent_at: datetime
    woken: WaitFacts | None

    @property
    def what(self) -> str:
        return f"node {self.node_id}" if self.node_id else "the next node"

    @property
    def idle(self) -> float:
        """Seconds since its message was sent."""
        return (self.facts.now - self.sent_at).total_seconds()

    def reason(
        self,
        code: Code,
        sentence: str,
        evidence: Mapping[str, Any],
        command: str | None,
        advice: str,
        subject: str = "",
    ) -> Reason:
        facts, look = self.facts, self.facts.queues.get(self.queue)
        shared: dict[str, Any] = {"queue": self.queue, "sentAt": json_time(self.sent_at)}
        if look is not None:
            shared |= {"queueLength": look.length, "consumersOfBroker": look.consumers}
        if facts.workers is not None:
            shared["consumers"] = names_of(facts.consumers(self.queue))
        if (requeue := facts.requeue) is not None:
            shared["returned"] = {
                "at": json_time(requeue.at),
                "by": requeue.worker,
                "reason": requeue.reason,
            }
        account = Account(sentence, {**shared, **evidence}, command, advice)
        return Reason.written(code, account, self.node_id, subject or self.queue)


def _away(facts: Facts, consumers: Sequence[WorkerHeartbeat]) -> dict[str, float | None]:
    """Return the servers that keep the workers from running it, each with the seconds since, if known.

    They are those that did not reply to us, and those that no consumer of the queue can reach.
    """
    away: dict[str, float | None] = {
        server: (facts.now - facts.requeue.at).total_seconds() if facts.requeue else None
        for server in facts.unasked
    }
    met = [set(worker.outages) for worker in consumers]
    for server in set.intersection(*met) if met else ():
        away.setdefault(server, min(worker.outages[server] for worker in consumers))
    return away


def _position(ahead: int | None, look: QueueLook | None) -> str:
    if look is None or look.length is None:
        return "; the broker does not show how many messages are ahead of its own"
    if ahead is None:
        return f", which holds {quantity(look.length, 'message')}"
    if ahead == 0:
        return ", and its message is served next"
    return f" behind {quantity(ahead, 'message')}"


def _not_consumed(case: _Case) -> Reason:
    queue, workers = case.queue, case.facts.workers or ()
    stopped = [worker.name for worker in workers if queue in worker.cancelled]
    if stopped:
        were = "was" if len(stopped) == 1 else "were"
        return case.reason(
            Code.QUEUE_PAUSED,
            f"{capital(case.what)} waits in queue {queue!r}, which {listed(stopped)} {were} told to stop "
            "consuming.",
            {"stoppedOn": stopped},
            commands.add_consumer(queue, stopped),
            "lets them consume it again; with `-A` of your own app, if they have one",
        )
    others = names_of(workers)
    alive = f"the workers that live are {listed(others)}" if others else "no worker lives"
    return case.reason(
        Code.NO_WORKER,
        f"{capital(case.what)} waits in queue {queue!r}, which no worker consumes; {alive}.",
        {"workers": others},
        commands.worker(queue),
        "starts a worker for this queue; with `-A` of your own app, if you have one",
    )


def _given_back(case: _Case, away: Mapping[str, float | None]) -> Reason:
    names = " and ".join(away)
    are, they = ("is", "it is") if len(away) == 1 else ("are", "they are")
    seconds = max((each for each in away.values() if each is not None), default=None)
    since = f" for {in_seconds(seconds)}" if seconds is not None else ""
    effect = (
        f"no worker receives the message of {case.what}"
        if set(away) == {BROKER}
        else f"workers return the message of {case.what} to its queue"
    )
    return case.reason(
        Code.GIVEN_BACK,
        f"{capital(names)} {are} away{since}, so {effect} until {they} back.",
        {
            "away": {server: each and round(each) for server, each in away.items()},
            "errors": dict(case.facts.unasked),
        },
        commands.cli("doctor"),
        "shows what is wrong with the servers; nothing is lost, and it goes on by itself",
        names,
    )


def _stalled(case: _Case) -> Reason:
    facts, woken = case.facts, case.woken
    execution_id = facts.execution.id
    at = (woken.claimed_until if woken is not None else None) or facts.rescued_at
    when = f"at {at_time(at)}" if at > facts.now else "with their next look, within seconds"
    # Siblings that may be on their way are not sent again before that time.
    is_parallel = facts.graph is not None and facts.graph.concurrency > 1
    again = f"{commands.cli('pause', execution_id)} && {commands.cli('resume', execution_id)}"
    return case.reason(
        Code.STALLED,
        f"The message of {case.what} was lost, or a busy worker holds it: it is not queued, and no worker "
        f"runs the node. Workers bring it back {when}.",
        {
            "idleSeconds": round(case.idle, 1),
            "broughtBackAt": json_time(at),
            "recoveries": facts.execution.recoveries,
        },
        None if is_parallel else again,
        "workers send it again" if is_parallel else "sends its message again at once",
    )
