"""A process that died with its whole worker loses its locks within seconds; a frozen one keeps them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
import redis

from support.broker import Broker, Workers
from support.polling import poll
from support.redis_keys import let_redis_remember
from support.rescues import rescue
from support.workflows import calling, line
from workflow_engine import (
    ExecutionContext,
    ExecutionStatus,
    Settings,
    WorkflowBuilder,
    WorkflowClient,
)
from workflow_engine.definition.workflow import Retry
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.messages import HopMessage
from workflow_engine.health.doctor.redis_server import ask_redis
from workflow_engine.maintenance.recovery import TURN
from workflow_engine.redis import presence
from workflow_engine.redis.keys import Keys

MISSING_FOR = 0.3


@pytest.fixture(autouse=True)
def _short_absences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MISSING_FOR", MISSING_FOR)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Return settings with which no lock expires, and no execution is found to be stalled, during a test."""
    return settings.model_copy(update={"lock_expiry": 600, "stall_after": 600})


@pytest.fixture
def look(engine: Engine, redis_client: redis.Redis) -> Callable[[], int]:
    """Play a worker whose turn it is to look."""

    def look() -> int:
        redis_client.delete(Keys.of(engine.settings).lease(TURN))
        return rescue(engine)

    return look


@pytest.fixture
def look_for_a_while(look: Callable[[], int]) -> Callable[[], int]:
    """Look for longer than a process has to be missing, and return how many executions were rescued."""

    def look_for_a_while() -> int:
        rescued, ends = 0, time.monotonic() + 4 * MISSING_FOR
        while time.monotonic() < ends:
            rescued += look()
            time.sleep(MISSING_FOR / 5)
        return rescued

    return look_for_a_while


@pytest.fixture
def kill_and_rescue(look: Callable[[], int]) -> Callable[..., None]:
    """Kill processes, and look until one execution was rescued."""

    def kill_and_rescue(*processes: OtherProcess) -> None:
        for process in processes:
            process.signal(signal.SIGKILL)
        poll(lambda: look() == 1, "the process is found to be dead")

    return kill_and_rescue


@pytest.fixture
def dead(
    engine: Engine, look: Callable[[], int], redis_client: redis.Redis
) -> Callable[[OtherProcess], None]:
    """Kill a process, and look until it is known to be dead and no execution of it was found."""

    def kill(process: OtherProcess) -> None:
        process.signal(signal.SIGKILL)

        def is_buried() -> bool:
            assert look() == 0
            values = redis_client.hvals(Keys.of(engine.settings).presence)
            return any(value.startswith(presence.OVER) for value in values)

        poll(is_buried, "the process is known to be dead")

    return kill


class OtherProcess:
    """A process that runs the node of a message until it is killed."""

    told_by: ClassVar[int | None] = None
    """In that process: the pipe on which it tells that its node runs."""

    def __init__(self, engine: Engine, message: HopMessage) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                OtherProcess.told_by = writing
                engine.executor.continue_execution(message)
            finally:
                os._exit(1)
        os.close(writing)
        assert os.read(reading, 1), "the process failed"
        os.close(reading)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            os.waitpid(self.pid, 0)
            self.pid = 0


@pytest.fixture
def running(engine: Engine) -> Iterator[Callable[..., OtherProcess]]:
    processes = []

    def run(message: HopMessage) -> OtherProcess:
        processes.append(OtherProcess(engine, message))
        return processes[-1]

    yield run
    for process in processes:
        if process.pid:
            process.signal(signal.SIGKILL)


def one() -> int:
    return _number(1)


def two() -> int:
    return _number(2)


def second_attempt(context: ExecutionContext) -> int:
    if context.attempt == 1:
        raise ConnectionError("the first attempt fails")
    return _number(context.attempt)


def _number(number: int) -> int:
    """Return the number; in another process, hold on until it is killed."""
    if OtherProcess.told_by is not None:
        os.write(OtherProcess.told_by, b"!")
        time.sleep(60)
    return number


@pytest.fixture
def execution(client: WorkflowClient) -> str:
    client.deploy(line(one, two))
    return client.start("line").id


@pytest.fixture
def process(broker: Broker, execution: str, running: Callable[..., OtherProcess]) -> OtherProcess:
    """Return a process that runs the first node of the execution."""
    return running(broker.take())


@pytest.fixture
def both(client: WorkflowClient) -> str:
    """Return an execution whose nodes `one` and `two` run at once."""
    flow = WorkflowBuilder("both", settings={"concurrency": 2})
    begin, joined = flow.trigger("begin"), flow.merge("joined")
    for function in (one, two):
        begin >> calling(flow, function) >> joined
    client.deploy(flow.build())
    return client.start("both").id


@pytest.fixture
def comes_to(client: WorkflowClient, workers: Workers) -> Callable[[str, object], None]:
    """Let an execution go on, and check its result."""

    def comes_to(execution: str, result: object) -> None:
        workers.drain()
        assert client.get(execution).result == result

    return comes_to


def test_the_execution_of_a_process_that_died_goes_on_long_before_its_lock_expires(
    engine: Engine,
    execution: str,
    process: OtherProcess,
    look: Callable[[], int],
    kill_and_rescue: Callable[..., None],
    comes_to: Callable[[str, object], None],
    redis_client: redis.Redis,
) -> None:
    assert look() == 0
    assert engine.locks.is_locked(execution)

    kill_and_rescue(process)

    assert not engine.locks.is_locked(execution)
    assert redis_client.pttl(Keys.of(engine.settings).presence) > 0
    comes_to(execution, 2)
    assert look() == 0


def test_each_death_counts_as_a_crash_of_its_node(
    client: WorkflowClient,
    engine: Engine,
    broker: Broker,
    workers: Workers,
    execution: str,
    running: Callable[..., OtherProcess],
    kill_and_rescue: Callable[..., None],
) -> None:
    workers.hop()
    for _ in range(engine.settings.max_recoveries + 1):
        kill_and_rescue(running(broker.take()))

    workers.drain()

    failed = client.get(execution)
    assert failed.status is ExecutionStatus.FAILED
    assert "was lost 4 times" in (failed.error or "")


def test_a_frozen_process_is_not_taken_for_dead(
    engine: Engine, execution: str, process: OtherProcess, look_for_a_while: Callable[[], int]
) -> None:
    process.signal(signal.SIGSTOP)

    assert look_for_a_while() == 0
    assert engine.locks.is_locked(execution)


def test_a_frozen_process_whose_lock_has_expired_has_not_lost_its_message(
    engine: Engine,
    execution: str,
    process: OtherProcess,
    look_for_a_while: Callable[[], int],
    kill_and_rescue: Callable[..., None],
    comes_to: Callable[[str, object], None],
    redis_client: redis.Redis,
    sql: Callable[..., object],
) -> None:
    let_redis_remember(engine.settings)
    redis_client.delete(Keys.of(engine.settings).lock(execution))
    sql("UPDATE executions SET updated_at = updated_at - interval '60 s'")

    assert look_for_a_while() == 0

    kill_and_rescue(process)
    comes_to(execution, 2)


def test_of_two_nodes_that_run_at_once_the_one_whose_process_died_runs_again(
    engine: Engine,
    broker: Broker,
    workers: Workers,
    both: str,
    running: Callable[..., OtherProcess],
    kill_and_rescue: Callable[..., None],
    comes_to: Callable[[str, object], None],
) -> None:
    first, second = broker.take(), broker.take()
    dying, living = running(first), running(second)

    kill_and_rescue(dying)

    assert [each.node_id for each in broker.messages] == [first.node_id]
    assert [each.node_id for each in engine.locks.holders(both)] == [second.node_id]
    workers.hop()
    kill_and_rescue(living)
    comes_to(both, {"one": 1, "two": 2})


def test_a_woken_node_whose_process_died_is_woken_again(
    client: WorkflowClient,
    broker: Broker,
    workers: Workers,
    time_passes: Callable[[float], None],
    wake_due: Callable[[], list[str]],
    running: Callable[..., OtherProcess],
    kill_and_rescue: Callable[..., None],
    comes_to: Callable[[str, object], None],
) -> None:
    client.deploy(line(second_attempt, retry=Retry(wait_duration=3_600_000)))
    execution = client.start("line").id
    workers.drain()
    time_passes(3600)
    assert wake_due() == ["second_attempt"]
    process = running(broker.take())
    assert client.get(execution).status is ExecutionStatus.WAITING

    kill_and_rescue(process)

    comes_to(execution, 2)


def test_an_execution_that_was_paused_while_its_process_died_goes_on_when_it_is_resumed(
    client: WorkflowClient,
    engine: Engine,
    execution: str,
    process: OtherProcess,
    look: Callable[[], int],
    dead: Callable[[OtherProcess], None],
    comes_to: Callable[[str, object], None],
    sql: Callable[..., object],
) -> None:
    let_redis_remember(engine.settings)
    client.control.pause(execution)
    dead(process)
    assert engine.locks.is_locked(execution)

    client.control.resume(execution)
    sql("UPDATE executions SET updated_at = updated_at - interval '10 s'")
    poll(lambda: look() == 1, "the resumed execution is rescued")

    comes_to(execution, 2)


def test_a_message_that_is_lost_after_a_takeover_is_sent_again_soon(
    engine: Engine,
    broker: Broker,
    execution: str,
    process: OtherProcess,
    look: Callable[[], int],
    kill_and_rescue: Callable[..., None],
    comes_to: Callable[[str, object], None],
    sql: Callable[..., object],
) -> None:
    """Lose it while the mark of the dead process is still there, as that of a frozen one would be."""
    let_redis_remember(engine.settings)
    kill_and_rescue(process)
    broker.queue.clear()

    past = "updated_at = updated_at - interval '10 s', recovered_at = recovered_at - interval '10 s'"
    sql(f"UPDATE executions SET {past}")
    poll(lambda: look() == 1, "the lost message is sent again")

    comes_to(execution, 2)


def test_the_frozen_one_of_two_nodes_that_run_at_once_is_left_alone_when_its_place_expires(
    engine: Engine,
    broker: Broker,
    both: str,
    running: Callable[..., OtherProcess],
    look_for_a_while: Callable[[], int],
    kill_and_rescue: Callable[..., None],
    comes_to: Callable[[str, object], None],
    redis_client: redis.Redis,
    sql: Callable[..., object],
) -> None:
    let_redis_remember(engine.settings)
    freezing, living = running(broker.take()), running(broker.take())
    place = Keys.of(engine.settings).lock(both, "one")
    assert redis_client.delete(place) == 1
    sql("UPDATE executions SET updated_at = updated_at - interval '10 s'")

    assert look_for_a_while() == 0

    kill_and_rescue(freezing, living)
    comes_to(both, {"one": 1, "two": 2})


def test_after_a_restart_of_redis_no_process_is_dead_for_not_having_connected_again(
    engine: Engine,
    execution: str,
    process: OtherProcess,
    look: Callable[[], int],
    look_for_a_while: Callable[[], int],
    redis_client: redis.Redis,
) -> None:
    look()
    process.signal(signal.SIGKILL)
    # It cannot be told from one that is frozen, whose connections the restart has closed.
    redis_client.hset(Keys.of(engine.settings).presence, "run", "the one before")

    assert look_for_a_while() == 0
    assert engine.locks.is_locked(execution)


def test_a_redis_that_does_not_list_its_connections_lets_locks_expire(
    new_engine: Callable[..., Engine], engine: Engine, redis_url: str, redis_client: redis.Redis
) -> None:
    redis_client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-client")
    try:
        host = redis_url.partition("//")[2].rpartition("@")[2]
        limited = new_engine(redis_url=f"redis://limited:secret@{host}")
        assert limited.presence.look() == frozenset()
        assert limited.data_age.seconds() >= 0
        address = limited.settings.redis_address
        assert not ask_redis(limited.settings, address, "").shows_presence
        assert ask_redis(engine.settings, engine.settings.redis_address, "").shows_presence
    finally:
        redis_client.execute_command("ACL", "DELUSER", "limited")


def test_a_thousand_connections_are_looked_through_by_one_command(
    engine: Engine, redis_client: redis.Redis, request: pytest.FixtureRequest
) -> None:
    keywords = redis_client.connection_pool.connection_kwargs
    names = [f"workflow-engine:host-{number}:{number}:{number:016x}" for number in range(1000)]
    idle = [redis.Connection(**{**keywords, "client_name": name}) for name in names]
    try:
        for connection in idle:
            connection.connect()
        engine.presence.look()
        assert redis_client.hlen(Keys.of(engine.settings).presence) > 1000
        took = []
        for _ in range(20):
            began = time.perf_counter()
            assert engine.presence.look() == frozenset()
            took.append((time.perf_counter() - began) * 1000)
        request.node.user_properties.append(
            ("measured", f"a look at 1,000 processes: {sorted(took)[10]:.1f} ms")
        )
    finally:
        for connection in idle:
            connection.disconnect()
