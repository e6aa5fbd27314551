"""Servers: what Postgres, Redis and the broker show about executions, each asked once for a bounded time."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from workflow_engine.broker.queue_looks import QueueLook
from workflow_engine.control.explain.facts import BROKER, REDIS, Facts
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.resumption import replayed
from workflow_engine.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    WorkflowNotFound,
)
from workflow_engine.execution.states import ACTIVE, ExecutionStatus, SlotStatus, WaitType
from workflow_engine.postgres.executions.diagnostics import Diagnostics, ExecutionFacts, WaitFacts
from workflow_engine.postgres.limits import SlotStanding
from workflow_engine.redis.client import connect_redis
from workflow_engine.redis.lock import DistributedLockService, Hold
from workflow_engine.redis.lock_servers import connect_lock_servers
from workflow_engine.redis.presence import NameOnly, Presence
from workflow_engine.redis.running_nodes import Progress, RunningNodes
from workflow_engine.redis.worker_heartbeats import WorkerHeartbeat, WorkerHeartbeats

Answer = TypeVar("Answer")

LONGEST_WAIT = 0.5
"""Seconds to wait for a reply of Redis or the broker."""

QUEUES_SHOWN = 50
"""Queues of many executions that are looked at, those of most of them."""


@dataclass(frozen=True)
class Fleet:
    """Who runs nodes, and which workers live."""

    holds: Mapping[str, Sequence[Hold]] = field(default_factory=dict)
    """The locks that are held to run a node, by execution."""
    workers: Sequence[WorkerHeartbeat] | None = None
    """None if they are unknown."""
    disconnected: Collection[str] = frozenset()
    """The lives of processes without a connection to Redis."""


class Servers:
    """Asks the servers of one installation; changes nothing. Methods may raise `DatabaseUnavailable`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.diagnostics = Diagnostics(engine.database)
        quick = engine.settings.model_copy(
            update={"redis_timeout": min(LONGEST_WAIT, engine.settings.redis_timeout)}
        )
        redis = connect_redis(quick, introduce=NameOnly())
        self._locks = DistributedLockService(redis, connect_lock_servers(redis, quick), quick)
        self._running_nodes = RunningNodes(redis, quick)
        self._heartbeats = WorkerHeartbeats(redis, quick)
        self._presence = Presence(redis, quick)

    def gather(self, executions: Sequence[ExecutionFacts]) -> list[Facts]:
        """Return what the servers show about these executions, each asked once for all of them."""
        open_ones = [each for each in executions if not each.status.is_finished]
        ids, unasked = [each.id for each in open_ones], dict[str, str]()
        paused = [each.id for each in open_ones if each.status is ExecutionStatus.PAUSED]
        waits = self.diagnostics.waits(ids) if ids else {}
        pauses = self.diagnostics.pauses(paused) if paused else {}
        requeues = self.diagnostics.requeues(ids) if ids else {}
        slots = self._engine.limits.standings(ids, with_places=False) if ids else {}
        queue_of = {each.id: self._queues_of(each, waits.get(each.id, ())) for each in open_ones}
        # No node of any other runs, nor should it.
        moving = [each for each in open_ones if each.status in ACTIVE or queue_of[each.id]]
        fleet = self._ask_redis([each.id for each in moving], unasked) if ids else Fleet()
        wanted = Counter(
            each.due_queue for each in moving if each.status in ACTIVE and each.id not in fleet.holds
        )
        wanted.update(queue for queues in queue_of.values() for queue in queues.values())
        queues: Mapping[str, QueueLook] = {}
        if wanted:
            looks = self._engine.queue_looks
            names = [name for name, _ in wanted.most_common(QUEUES_SHOWN)]
            queues = _ask(lambda: looks.look(names, LONGEST_WAIT), BROKER, unasked) or {}
        return [
            Facts(
                execution=each,
                stall_after=self._engine.settings.stall_after,
                claim_lease=self._engine.settings.claim_lease,
                waits=waits.get(each.id, ()),
                holds=fleet.holds.get(each.id, ()),
                disconnected=fleet.disconnected,
                pause=pauses.get(each.id),
                requeue=requeues.get(each.id),
                lacking=_lacking(slots.get(each.id, ())),
                queues=queues,
                queue_of=queue_of.get(each.id, {}),
                workers=fleet.workers,
                unasked=unasked,
            )
            for each in executions
        ]

    def _ask_redis(self, execution_ids: Sequence[str], unasked: dict[str, str]) -> Fleet:
        """Return who runs nodes of these executions, and which workers live."""
        holds = _ask(lambda: self._locks.holds_of(execution_ids), REDIS, unasked)
        workers = _ask(self._heartbeats.all, REDIS, unasked) if holds is not None else None
        if holds is None or workers is None:
            return Fleet()
        # A holder without a node only publishes what is due.
        running = {
            execution_id: nodes
            for execution_id, held in holds.items()
            if (nodes := [hold for hold in held if hold.holder.node_id])
        }
        lives = {hold.holder.life for held in running.values() for hold in held}
        lives.update(worker.life for worker in workers)
        lives -= {""}  # of a release that did not report it
        disconnected = _ask(lambda: self._presence.disconnected(lives), REDIS, unasked) or frozenset()
        alive = [worker for worker in workers if worker.life not in disconnected]
        return Fleet(running, alive, disconnected)

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

    def completed(self, facts: Facts) -> Facts:
        """Return the facts with those that only the explanation of a single execution needs."""
        execution = facts.execution
        if execution.status.is_finished:
            return facts
        kept = next((wait for wait in facts.waits if wait.type is WaitType.EVENTS and not wait.is_over), None)
        children = {
            wait.node_id: child
            for wait in facts.waits
            if wait.type is WaitType.CHILDREN
            and (child := self.diagnostics.open_child(execution.id, wait.seq)) is not None
        }
        facts = dataclasses.replace(
            facts,
            lacking=_lacking(self._engine.limits.standing(execution.id)) if facts.lacking else (),
            progress=self._progress(facts),
            open_children=children,
            kept_events=(
                self.diagnostics.kept_events(kept.missing_events, kept.correlation_id) if kept else ()
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
