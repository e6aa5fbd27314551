"""The message that wakes a node is sent again when it is lost, and not while it is on its way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from support.broker import Broker, Workers
from support.redis_keys import let_redis_remember
from support.rescues import two
from support.workflows import calling
from workflow_engine import WorkflowBuilder, WorkflowClient
from workflow_engine.engine.assembly import Engine
from workflow_engine.engine.publisher import AHEAD_OF_THE_QUEUE
from workflow_engine.maintenance.recovery import SETTLING, TURN, Recovery
from workflow_engine.maintenance.timekeeper import Timekeeping
from workflow_engine.redis.keys import Keys

Sql = Callable[..., list[tuple[Any, ...]]]

pytestmark = pytest.mark.usefixtures("redis_has_kept_its_data")

WOKEN_EARLIER = """
UPDATE execution_wait_states SET details = details
    || jsonb_build_object('wokenAt', (details->>'wokenAt')::timestamptz - interval '10 seconds')
"""


@pytest.fixture
def woken(
    client: WorkflowClient,
    workers: Workers,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
) -> str:
    """Return an execution of which a node was woken; its message is the only one that is queued."""
    flow = WorkflowBuilder("later")
    flow.trigger("begin") >> flow.delay("coolOff", duration=1, unit="hours") >> calling(flow, two)
    client.deploy(flow.build())
    execution = client.start("later").id
    workers.drain()
    time_passes(3600)
    assert wake_due() == ["coolOff"]
    return execution


def test_a_wake_that_redis_has_lost_is_not_taken_for_queued_either(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    broker.queue.clear()
    sql(WOKEN_EARLIER.replace("10", "5") + "RETURNING id")
    client.start("later")
    broker.grow_old(0.5)
    assert (look(), wake_due()) == (0, [])

    let_redis_remember(engine.settings, 2.7)
    assert (look(), wake_due()) == (1, ["coolOff"])


def test_a_message_that_woke_a_node_and_was_lost_is_sent_again(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    broker.queue.clear()
    assert (look(), wake_due()) == (0, []), "it may be on its way"

    sql(WOKEN_EARLIER + "RETURNING id")
    assert (look(), wake_due()) == (1, ["coolOff"])

    workers.drain()
    assert client.get(woken).result == 2


def test_a_wake_that_is_lost_again_and_again_is_soon_sent_again_ahead_of_the_queue(
    engine: Engine,
    broker: Broker,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    again = []
    for seconds in (3.5, 0.6, 0.6, 0.6, 1.1, 2.1, 3):
        assert broker.queue.pop().message.execution_id == woken
        sql(WOKEN_EARLIER.replace("10", str(seconds)) + "RETURNING id")
        again.append((look(), wake_due()))
        if broker.queue:
            assert broker.queue[-1].priority == AHEAD_OF_THE_QUEUE < engine.settings.node_priority
        else:
            break

    assert again == [(1, ["coolOff"])] * 6 + [(0, [])]


def test_a_woken_node_whose_second_message_is_queued_ahead_is_not_woken_a_third_time(
    broker: Broker,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    broker.queue.clear()
    sql(WOKEN_EARLIER + "RETURNING id")
    assert (look(), wake_due()) == (1, ["coolOff"])

    sql(WOKEN_EARLIER + "RETURNING id")
    broker.grow_old(10)

    assert (look(), wake_due()) == (0, [])
    assert [message.execution_id for message in broker.messages] == [woken]


def test_a_message_that_woke_a_node_and_is_put_back_during_the_look_is_not_sent_again(
    engine: Engine, broker: Broker, woken: str, wake_due: Callable[[], list[str]], sql: Sql
) -> None:
    sql(WOKEN_EARLIER + "RETURNING id")
    broker.grow_old(10)
    taken = broker.queue.popleft()
    recovery = Recovery(engine)

    assert (recovery.rescue_stalled(), recovery.is_looking) == (0, True)
    broker.queue.append(taken)
    time.sleep(recovery.seconds_until_look)
    assert (recovery.rescue_stalled(), recovery.is_looking) == (0, False)

    assert wake_due() == []
    assert [message.execution_id for message in broker.messages] == [woken]


def test_a_timekeeper_that_found_a_lost_wake_sends_it_again_without_a_pause(
    engine: Engine, broker: Broker, woken: str, redis_client: redis.Redis, sql: Sql
) -> None:
    broker.queue.clear()
    sql(WOKEN_EARLIER + "RETURNING id")
    redis_client.delete(Keys.of(engine.settings).lease(TURN))
    timekeeping = Timekeeping(engine)

    # The first round may be cut short on a busy machine.
    while not broker.queue:
        pause = timekeeping.round()
        assert pause <= SETTLING
        time.sleep(pause)

    assert [message.execution_id for message in broker.messages] == [woken]


def test_a_node_that_was_woken_and_is_queued_or_runs_or_is_in_a_queue_that_is_not_shown_is_not_woken_again(
    engine: Engine,
    broker: Broker,
    woken: str,
    wake_due: Callable[[], list[str]],
    look: Callable[[], int],
    sql: Sql,
) -> None:
    sql(WOKEN_EARLIER + "RETURNING id")
    broker.grow_old(10)
    assert (look(), wake_due()) == (0, []), "queued"

    broker.queue.clear()
    claim = engine.locks.acquire_lock(woken, "a task")
    assert claim is not None
    assert (look(), wake_due()) == (0, []), "it runs"
    engine.locks.release_lock(claim)

    broker.shows_its_queues = False
    assert (look(), wake_due()) == (0, []), "it is not known yet"
    broker.shows_its_queues, broker.held_by_workers = True, frozenset({woken})
    assert (look(), wake_due()) == (0, []), "a worker has taken it"
    broker.held_by_workers = frozenset()
    assert look() == 1
