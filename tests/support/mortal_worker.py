"""A worker process that dies at a chosen call of a server, and the parent that finds it dead.

It dies before the call, or after it: then the server has done what was asked, and the process never learns
of it. A dead process makes no further call, whatever its code would still do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from support.broker import Broker
from workflow_engine import Settings, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import Dispatch, HopMessage
from workflow_engine.maintenance.recovery import LostNode, Recovery

REDIS_CALLS = ("enter", "cache_context", "update_context", "add_jointly", "finish", "discard")

TASK_ID = "task"

UNFINISHED = "SELECT id::text FROM {s}.executions WHERE completed_at IS NULL ORDER BY id"
LEASES_END = """
UPDATE {s}.execution_wait_states SET claimed_until = now() WHERE status = 'RESUMING' RETURNING id
"""


class Killed(BaseException):
    """The end of the process, which no code in it survives."""


class _Life:
    """Counts the calls of a process, and ends it at one of them."""

    def __init__(self) -> None:
        self.ends_at = 0
        self._made = 0
        self._is_over = False

    def begin(self, ends_at: int) -> None:
        self.ends_at, self._made, self._is_over = ends_at, 0, False

    def guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*given: Any, **named: Any) -> Any:
            self._step()
            done = call(*given, **named)
            self._step()
            return done

        return guarded

    def _step(self) -> None:
        self._made += 1
        if self._is_over or self._made == self.ends_at:
            self._is_over = True
            raise Killed


class _MortalBroker:
    """The broker as the process reaches it."""

    def __init__(self, broker: Broker, life: _Life) -> None:
        self._broker = broker
        self.publish = life.guarded(self._publish)

    def _publish(self, dispatches: Sequence[Dispatch]) -> None:
        if dispatches:
            self._broker.publish(dispatches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


class MortalWorkers:
    """Serves messages by a process that dies at each of its calls in turn, until it gets through."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        settings = settings.model_copy(update={"max_recoveries": 1_000_000})
        self._broker = broker
        self._life = _Life()
        self.engine = Engine.assemble(settings, dispatcher=_MortalBroker(broker, self._life))
        self._parent = Engine.assemble(settings, dispatcher=broker)
        self._recovery = Recovery(self._parent)
        self._deaths: Counter[HopMessage] = Counter()
        self.engine.database._execute = self._life.guarded(self.engine.database._execute)  # type: ignore[method-assign]
        for name in REDIS_CALLS:
            setattr(self.engine.cache, name, self._life.guarded(getattr(self.engine.cache, name)))

    @property
    def deaths(self) -> int:
        return self._deaths.total()

    def drain(self) -> None:
        """Serve all messages, and what is due although its message was lost."""
        while self._broker.queue or self._resume_all():
            if self._broker.queue:
                self.hop()

    def hop(self) -> None:
        """Serve one message; the first time it dies at the first call, then at the second, and so on."""
        message = self._broker.take()
        self._life.begin(self._deaths[message] + 1)
        try:
            self.engine.executor.continue_execution(message, TASK_ID)
        except Killed:
            self._deaths[message] += 1
            self.engine.locks.stop_all_renewing()
            self._recovery.process_lost(LostNode(message, TASK_ID, "killed by the test"))

    def close(self) -> None:
        for engine in (self.engine, self._parent):
            engine.locks.stop_all_renewing()
            engine.database.dispose()

    def _resume_all(self) -> bool:
        """Do what rescue and the timekeepers do once a message is certain to be lost."""
        for (execution_id,) in self._parent.database.rows(UNFINISHED):
            self._parent.executor.resume_execution(execution_id)
        self._parent.database.rows(LEASES_END)
        self._parent.publisher.wake(self._parent.waits.claim_due(known=self._parent.code))
        WorkflowClient(engine=self._parent).control.descendants.see_to_due()
        return bool(self._broker.queue)
