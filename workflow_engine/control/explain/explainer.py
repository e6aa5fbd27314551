"""Explainer: asks each server once, for a bounded time, and concludes why executions do not move.

It changes nothing and needs no worker to reply. What cannot be asked is named in the result.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from workflow_engine.broker.queue_looks import QueueLook
from workflow_engine.control.explain import commands
from workflow_engine.control.explain.explanation import Code, Explanation, Group, Overview
from workflow_engine.control.explain.facts import BROKER, POSTGRES, REDIS, Facts
from workflow_engine.control.explain.joins import join_of
from workflow_engine.control.explain.reason import capital
from workflow_engine.control.explain.reasons import reasons
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.resumption import replayed
from workflow_engine.errors import (
    BackingServiceUnavailable,
    BrokerUnavailable,
    CacheUnavailable,
    DatabaseUnavailable,
    ExecutionNotFound,
    WorkflowNotFound,
)
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.states import ACTIVE, ExecutionStatus, SlotStatus, WaitType
from workflow_engine.postgres.executions.diagnostics import Diagnostics, ExecutionFacts, WaitFacts
from workflow_engine.postgres.limits import SlotStanding
from workflow_engine.redis.client import connect_redis
from workflow_engine.redis.lock import DistributedLockService, Hold
from workflow_engine.redis.lock_servers import connect_lock_servers
from workflow_engine.redis.presence import Presence, name_connection
from workflow_engine.redis.running_nodes import Progress, RunningNodes
from workflow_engine.redis.worker_heartbeats import WorkerHeartbeat, WorkerHeartbeats

Answer = TypeVar("Answer")

LONGEST_WAIT = 0.5
"""Seconds to wait for a reply of Redis or the broker."""

EXAMINED = 1000
"""Executions that an overview examines."""

SHOWN = 5
"""Ids and subjects of a group."""

URGENCY = (
    Code.RUNNING,
    Code.HELD_BY_DEAD,
    Code.GIVEN_BACK,
    Code.NO_WORKER,
    Code.QUEUE_PAUSED,
    Code.UNKNOWN_TYPE,
    Code.STALLED,
    Code.LIMITED,
    Code.QUEUED,
    Code.RETRYING,
    Code.WAITING_EVENTS,
    Code.WAITING_CHILDREN,
    Code.WAITING_TIME,
)
"""Which code counts if open nodes have different ones and no merge waits for them: the first of these."""


class Explainer:
    """Explains executions from what Postgres, Redis and the broker show."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._diagnostics = Diagnostics(engine.database)
        quick = engine.settings.model_copy(
            update={"redis_timeout": min(LONGEST_WAIT, engine.settings.redis_timeout)}
        )
        redis = connect_redis(quick, introduce=name_connection)
        self._locks = DistributedLockService(redis, connect_lock_servers(redis, quick), quick)
        self._running_nodes = RunningNodes(redis, quick)
        self._heartbeats = WorkerHeartbeats(redis, quick)
        self._presence = Presence(redis, quick)

    def explain(self, execution_id: str) -> Explanation:
        """Explain why an execution does not move, or how it does.

        While Postgres is away this still returns an explanation. Raises `ExecutionNotFound`.
        """
        execution_id = checked_id(execution_id)
        try:
            execution = self._diagnostics.execution(execution_id)
            if execution is None:
                raise ExecutionNotFound(execution_id)
            facts = self._gather([execution])[0]
            return _explanation(self._completed(facts))
        except DatabaseUnavailable as error:
            return _without_postgres(execution_id, error)

    def explain_all(self, limit: int = EXAMINED) -> Overview:
        """Group the oldest executions that have not ended by why they do not move.

        Children are left out: the explanation of their parent leads to them. Raises `DatabaseUnavailable`.
        """
        executions = self._diagnostics.oldest(limit + 1)
        found = self._gather(executions[:limit])
        explained = [_explanation(facts) for facts in found]
        unasked = found[0].unasked if found else {}
        return Overview(_groups(explained), len(explained), len(executions) <= limit, _listed(unasked))

    # -- asking --------------------------------------------------------------------------------------------

    def _gather(self, executions: Sequence[ExecutionFacts]) -> list[Facts]:
        """Return what the servers show about these executions, each asked once for all of them."""
        open_ones = [each for each in executions if not each.status.is_finished]
        ids, unasked = [each.id for each in open_ones], dict[str, str]()
        paused = [each.id for each in open_ones if each.status is ExecutionStatus.PAUSED]
        waits = self._diagnostics.waits(ids) if ids else {}
        pauses = self._diagnostics.pauses(paused) if paused else {}
        requeues = self._diagnostics.requeues(ids) if ids else {}
        slots = self._engine.limits.standings(ids, with_places=False) if ids else {}
        holds: Mapping[str, list[Hold]] = {}
        workers: list[WorkerHeartbeat] | None = None
        disconnected: Collection[str] = ()
        if ids:
            holds = _ask(lambda: self._locks.holds_of(ids), REDIS, unasked) or {}
        if ids and REDIS not in unasked:
            workers = _ask(self._heartbeats.all, REDIS, unasked)
        if workers is not None:
            lives = {hold.holder.life for each in holds.values() for hold in each}
            lives.update(worker.life for worker in workers)
            lives.discard("")  # of a release that did not report it
            disconnected = _ask(lambda: self._presence.disconnected(lives), REDIS, unasked) or ()
            workers = [worker for worker in workers if worker.life not in disconnected]
        queue_of = {each.id: self._queues_of(each, waits.get(each.id, ())) for each in open_ones}
        due = [each for each in open_ones if each.status in ACTIVE and each.id not in holds]
        wanted = {each.due_queue for each in due}
        wanted.update(queue for queues in queue_of.values() for queue in queues.values())
        queues: Mapping[str, QueueLook] = {}
        if wanted:
            looks = self._engine.queue_looks
            queues = _ask(lambda: looks.look(sorted(wanted), LONGEST_WAIT), BROKER, unasked) or {}
        return [
            Facts(
                execution=each,
                stall_after=self._engine.settings.stall_after,
                claim_lease=self._engine.settings.claim_lease,
                waits=waits.get(each.id, ()),
                holds=[hold for hold in holds.get(each.id, ()) if hold.holder.node_id],
                disconnected=disconnected,
                pause=pauses.get(each.id),
                requeue=requeues.get(each.id),
                lacking=_lacking(slots.get(each.id, ())),
                queues=queues,
                queue_of=queue_of.get(each.id, {}),
                workers=workers,
                unasked=unasked,
            )
            for each in executions
        ]

    def _queues_of(self, execution: ExecutionFacts, waits: Sequence[WaitFacts]) -> dict[str, str]:
        """Return the queue of each node whose wait is over."""
        woken = [wait.node_id for wait in waits if wait.is_over]
        if not woken:
            return {}
        named: Mapping[str, str | None] = {}
        with suppress(WorkflowNotFound, ValueError):  # of a newer release
            workflow = self._engine.workflows.get(execution.workflow_id, execution.version)
            known = workflow.graph.nodes
            named = {node_id: workflow.route(node_id).queue for node_id in woken if node_id in known}
        return {node_id: named.get(node_id) or execution.queue for node_id in woken}

    def _completed(self, facts: Facts) -> Facts:
        """Return the facts with those that only the explanation of a single execution needs."""
        execution = facts.execution
        if execution.status.is_finished:
            return facts
        kept = next((wait for wait in facts.waits if wait.type is WaitType.EVENTS and not wait.is_over), None)
        children = {
            wait.node_id: child
            for wait in facts.waits
            if wait.type is WaitType.CHILDREN
            and (child := self._diagnostics.open_child(execution.id, wait.seq)) is not None
        }
        facts = dataclasses.replace(
            facts,
            lacking=_lacking(self._engine.limits.standing(execution.id)) if facts.lacking else (),
            progress=self._progress(facts),
            open_children=children,
            kept_events=(
                self._diagnostics.kept_events(kept.missing_events, kept.correlation_id) if kept else ()
            ),
        )
        with suppress(WorkflowNotFound, ValueError):  # of a newer release
            workflow = self._engine.workflows.get(execution.workflow_id, execution.version)
            snapshot = self._engine.state.load_snapshot(execution.id, with_outputs=False)
            if snapshot is not None:
                return dataclasses.replace(facts, graph=workflow.graph, walk=replayed(workflow, snapshot))
        return facts

    def _progress(self, facts: Facts) -> dict[str, Progress]:
        found: dict[str, Progress] = {}
        with suppress(CacheUnavailable):
            for hold in facts.holds:
                progress = self._running_nodes.progress(facts.execution.id, hold.holder)
                if progress is not None:
                    found[hold.holder.token] = progress
        return found


def _lacking(slots: Sequence[SlotStanding]) -> list[SlotStanding]:
    return [slot for slot in slots if slot.status is SlotStatus.LIMITED]


def _ask(call: Callable[[], Answer], server: str, unasked: dict[str, str]) -> Answer | None:
    """Return the result of a call; None if the server is away, which is noted."""
    try:
        return call()
    except (CacheUnavailable, BrokerUnavailable) as error:
        unasked[server] = str(error)
        return None


def _explanation(facts: Facts) -> Explanation:
    """Choose the reason that counts."""
    found = reasons(facts)
    main = join_of(facts, found) or min(found, key=lambda each: _urgency(each.code))
    others = [
        {"code": each.code.value, "nodeId": each.node_id, "sentence": each.sentence}
        for each in found
        if each is not main
    ]
    evidence = {**main.evidence, **({"others": others} if others and main.code is not Code.JOIN else {})}
    return Explanation(
        facts.execution.id,
        main.code,
        main.sentence,
        evidence,
        main.command,
        main.advice,
        _listed(facts.unasked),
        facts.execution.status,
        facts.execution.workflow_id,
        main.node_id,
        main.subject,
    )


def _urgency(code: Code) -> int:
    return URGENCY.index(code) if code in URGENCY else -1


def _without_postgres(execution_id: str, error: BackingServiceUnavailable) -> Explanation:
    return Explanation(
        execution_id,
        Code.GIVEN_BACK,
        "Postgres is away, so nothing moves: workers return each message to its queue until it is back.",
        {"away": [POSTGRES], "errors": {POSTGRES: str(error)}},
        commands.cli("doctor"),
        "shows what is wrong with the servers; nothing is lost, and it goes on by itself",
        _listed({POSTGRES: str(error)}),
        subject=POSTGRES,
    )


def _listed(unasked: Mapping[str, str]) -> list[str]:
    return [f"{server}: {reason}" for server, reason in unasked.items()]


def _groups(explained: Iterable[Explanation]) -> list[Group]:
    by_code: dict[Code, list[Explanation]] = {}
    for each in explained:
        by_code.setdefault(each.code, []).append(each)
    groups = [_group(code, members) for code, members in by_code.items()]
    return sorted(groups, key=lambda group: -group.count)


SENTENCES = {
    Code.RUNNING: "workers run their nodes",
    Code.QUEUED: "messages wait for a free worker",
    Code.NO_WORKER: "no worker consumes their queue",
    Code.QUEUE_PAUSED: "workers were told to stop consuming their queue",
    Code.WAITING_TIME: "nodes wait for a time",
    Code.WAITING_EVENTS: "nodes wait for events",
    Code.WAITING_CHILDREN: "nodes wait for child executions",
    Code.RETRYING: "nodes have failed, and their next attempts have a time",
    Code.PAUSED: "operators have paused them",
    Code.UNKNOWN_TYPE: "workers lack the code of their nodes",
    Code.GIVEN_BACK: "a server is away, and workers return their messages",
    Code.HELD_BY_DEAD: "their locks are of processes that are gone",
    Code.STALLED: "their messages were lost, and workers bring them back",
    Code.LIMITED: "a limit holds them back",
    Code.JOIN: "merges wait for several branches",
}


def _group(code: Code, members: Sequence[Explanation]) -> Group:
    subjects = dict(Counter(each.subject for each in members if each.subject).most_common(SHOWN))
    return Group(
        code,
        len(members),
        [each.execution_id for each in members[:SHOWN]],
        f"{capital(SENTENCES[code])}.",
        subjects,
        members[0],
    )
