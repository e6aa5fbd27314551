"""An event and the wait for it at the same instant, from two processes, never miss each other.

One process runs the nodes that wait, another sends the events, through the same interfaces as any other: a
hop of the executor and the client. Before every round they meet at a barrier; the sender then lets a random
moment pass, about as long as a hop takes to its commit, so that now the one and now the other comes first.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

from support.broker import Broker, Workers
from workflow_engine import ExecutionStatus, Settings, WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import Dispatch, HopMessage

ROUNDS = 1_000
MEETING_TIMEOUT = 30.0
MOST_OFTEN = 0.95
"""The share of rounds that one side may win, or the two would not have met."""


def test_an_event_and_the_wait_for_it_at_the_same_instant_never_miss_each_other(
    settings: Settings,
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    sql: Callable[..., list[tuple[Any, ...]]],
) -> None:
    flow = WorkflowBuilder("orders")
    hear = flow.wait_events("hear", ["paid"], correlation_id="order-{{ placed.id }}")
    flow.trigger("placed") >> hear >> flow.function("end", "{{ hear.paid }}")
    client.deploy(flow.build())
    executions = [client.start("orders", {"id": number}).id for number in range(ROUNDS)]
    messages = [broker.take() for _ in executions]

    together = multiprocessing.get_context("spawn")
    arguments = (together.Barrier(2),)
    with ProcessPoolExecutor(2, together, initializer=_meet_at, initargs=arguments) as processes:
        waiting = processes.submit(_wait, settings, messages)
        sending = processes.submit(_send, settings, executions)
        woken_by_waiting, (woken_by_sending, answers) = waiting.result(), sending.result()

    assert set(answers) == {"delivered", "kept"}
    assert max(answers.values()) < MOST_OFTEN * ROUNDS, f"they did not meet: {answers}"
    # The second one saw the other, and has enqueued the node.
    assert len(woken_by_waiting) == answers["kept"]
    woken = woken_by_waiting + woken_by_sending
    assert sorted(dispatch.message.execution_id for dispatch in woken) == sorted(executions)
    assert sql("SELECT status, count(*) FROM execution_wait_states GROUP BY 1") == [("RESUMING", ROUNDS)]
    received = sql("SELECT execution_id::text, received_events->'paid' FROM execution_wait_states")
    assert dict(received) == {execution_id: number for number, execution_id in enumerate(executions)}
    broker.queue.extend(woken[:10])
    workers.drain()
    assert client.count()[ExecutionStatus.COMPLETED] == 10


# -- in the two processes ----------------------------------------------------------------------------------

_barrier: Barrier


def _meet_at(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603  # a barrier can only be handed over while the process begins
    _barrier = barrier


def _wait(settings: Settings, messages: list[HopMessage]) -> list[Dispatch]:
    """Run the nodes that wait, one in each round, and return the messages that follow."""
    broker = Broker()
    engine = Engine.assemble(settings, dispatcher=broker)
    for message in messages:
        _barrier.wait(MEETING_TIMEOUT)
        engine.executor.continue_execution(message)
    return list(broker.queue)


def _send(settings: Settings, executions: list[str]) -> tuple[list[Dispatch], Counter[str]]:
    """Send an event in each round, both ways in turn. Return the messages that follow, and each result."""
    broker = Broker()
    client = WorkflowClient(engine=Engine.assemble(settings, dispatcher=broker))
    chance = random.Random(ROUNDS)
    answers: Counter[str] = Counter()
    for number, execution_id in enumerate(executions):
        address = {"execution_id": execution_id} if number % 2 else {"correlation_id": f"order-{number}"}
        _barrier.wait(MEETING_TIMEOUT)
        time.sleep(chance.uniform(0, 0.004))
        answers[client.send_event(name="paid", payload=number, **address).accepted] += 1
    return list(broker.queue), answers
