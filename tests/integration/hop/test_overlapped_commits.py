"""A process with its next message in sight does not wait for a commit; nothing follows from one too early."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest

from support.polling import poll
from support.pool_process import PoolProcess, held_up
from support.workflows import line
from workflow_engine import ExecutionStatus, Settings, WorkflowClient
from workflow_engine.engine.overlap import MOST_COLLECTED
from workflow_engine.execution.messages import NextMessage

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"

TRANSACTIONS = """
SELECT DISTINCT n.xmin::text FROM {s}.node_executions n
WHERE n.execution_id = ANY(%(executions)s::uuid[]) AND n.node_id = 'works'
"""

CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"

runs: list[str] = []
"""The executions whose nodes have run, in their order."""
meanwhile: list[Callable[[], object]] = []
"""What the next node does while it runs."""


outputs: list[str] = []
"""What the next nodes return, in their order."""


def works() -> str:
    runs.append("works")
    while meanwhile:
        meanwhile.pop()()
    return outputs.pop(0) if outputs else "done"


def ends() -> str:
    return "the end"


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    runs.clear()
    meanwhile.clear()
    outputs.clear()


@pytest.fixture
def client(process: PoolProcess) -> WorkflowClient:
    client = WorkflowClient(engine=process.engine)
    client.deploy(line(works, ends))
    return client


@pytest.fixture
def hurries_no_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread finish the hops before, however long Postgres takes."""
    monkeypatch.setattr("workflow_engine.engine.overlap.LONGEST_AWAITED", 60.0)


@pytest.fixture
def knows_its_nodes(client: WorkflowClient, process: PoolProcess) -> None:
    """Let the process find out that its nodes are brief."""
    for _ in range(2):
        client.start("line")
    process.drain()
    runs.clear()


def statuses(client: WorkflowClient, execution: str) -> list[str]:
    return [row.node_id for row in client.journal(execution)]


def is_completed(client: WorkflowClient, execution: str) -> bool:
    whole = ["start", "works", "ends"]
    return client.get(execution).status is ExecutionStatus.COMPLETED and statuses(client, execution) == whole


def test_a_process_that_has_its_next_message_does_not_wait_for_a_commit(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    one, two = client.start("line").id, client.start("line").id
    now, then = process.take(), process.take()

    with held_up(settings, one):
        process.serve(now, then)
        assert statuses(client, one) == ["start"]
        assert process.engine.locks.is_locked(one), "nothing follows from a commit before its result"

    process.serve(then)
    process.drain()
    assert is_completed(client, one)
    assert is_completed(client, two)


@pytest.mark.usefixtures("knows_its_nodes")
def test_a_brief_node_runs_while_the_commit_of_another_execution_is_awaited(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    one, two = client.start("line").id, client.start("line").id
    now, then = process.take(), process.take()

    with held_up(settings, one) as let_go:
        process.serve(now, then)
        meanwhile.append(let_go)
        process.serve(then)

    assert statuses(client, one) == ["start", "works"]
    process.drain()
    assert is_completed(client, one)
    assert is_completed(client, two)


def test_a_node_of_unknown_duration_runs_after_the_hop_before_is_finished(
    client: WorkflowClient, process: PoolProcess, other: PoolProcess
) -> None:
    one, _ = client.start("line").id, client.start("line").id
    now, then = process.take(), process.take()
    other.serve(now)
    process.serve(process.take(), then)  # the last node, so the process does not know the first
    ended: list[bool] = []

    meanwhile.append(lambda: ended.append(is_completed(client, one)))
    process.serve(then)

    assert ended == [True]


@pytest.mark.usefixtures("knows_its_nodes")
def test_a_node_that_takes_long_for_once_does_not_hold_up_the_execution_before_it(
    client: WorkflowClient, process: PoolProcess
) -> None:
    one, _ = client.start("line").id, client.start("line").id
    now, then = process.take(), process.take()
    process.serve(now, then)
    sent: list[str] = []

    def waits_for_the_next_message() -> None:
        sent.append(process.take().message.execution_id)

    meanwhile.append(waits_for_the_next_message)
    process.serve(then)

    assert sent == [one]


@pytest.mark.usefixtures("knows_its_nodes")
def test_a_commit_whose_connection_is_lost_is_offered_again(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    one, two = client.start("line").id, client.start("line").id
    now, then = process.take(), process.take()
    rows = process.engine.database.rows

    with held_up(settings, one):
        process.serve(now, then)
        waiting = poll(lambda: rows(WAITING), "the commit waits")
        rows("SELECT pg_terminate_backend(%(pid)s)", pid=waiting[0][0])

    process.serve(then)
    process.drain()
    assert is_completed(client, one)
    assert is_completed(client, two)
    assert len(runs) == 2, "no node has run again"


@pytest.mark.usefixtures("knows_its_nodes")
def test_a_commit_that_is_refused_while_it_is_awaited_leaves_the_next_message_alone(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    one, two = client.start("line").id, client.start("line").id
    now, then = process.take(), process.take()

    with held_up(settings, one):
        cancelling = threading.Thread(target=client.control.cancel, args=(one,))
        cancelling.start()
        poll(lambda: process.engine.database.rows(WAITING), "the cancellation waits")
        process.serve(now, then)
    cancelling.join()

    process.serve(then)
    process.drain()
    assert client.get(one).status is ExecutionStatus.CANCELLED
    assert is_completed(client, two)
    assert not process.engine.locks.is_locked(one)


def test_a_hop_is_finished_although_the_next_message_is_dropped(
    client: WorkflowClient, process: PoolProcess
) -> None:
    one, two = client.start("line").id, client.start("line").id
    late = process.take()
    process.serve(late)
    now = process.take()

    process.serve(now, late)
    process.serve(late)

    assert not process.engine.locks.is_locked(now.message.execution_id)
    process.drain()
    assert is_completed(client, one)
    assert is_completed(client, two)


def test_a_process_that_ends_finishes_its_last_hop(client: WorkflowClient, process: PoolProcess) -> None:
    one, _ = client.start("line").id, client.start("line").id
    now, then = process.take(), process.take()
    process.serve(now, then)

    process.engine.executor.settle()

    assert statuses(client, one) == ["start", "works"]
    assert not process.engine.locks.is_locked(one)
    assert not process.engine.locks.is_locked(then.message.execution_id)


class SightLostError(Exception):
    """The process fails as it looks for its next message, right after it has sent a commit."""


def loses_sight(_until: int | None) -> None:
    raise SightLostError


def test_a_commit_that_was_sent_is_followed_up_although_its_process_fails_at_once(
    client: WorkflowClient, process: PoolProcess
) -> None:
    one = client.start("line").id
    with pytest.raises(SightLostError):
        process.engine.executor.continue_execution(*process.take(), look_ahead=loses_sight)

    assert statuses(client, one) == ["start", "works"]
    assert not process.engine.locks.is_locked(one)
    process.serve(process.take())  # the next message was sent, and no recovery has run
    assert is_completed(client, one)
    assert runs == ["works"], "the node is not run again"


@pytest.mark.usefixtures("knows_its_nodes")
def test_the_hop_before_is_finished_although_its_process_fails_in_the_next_one(
    client: WorkflowClient, process: PoolProcess
) -> None:
    one, two = client.start("line").id, client.start("line").id
    now, then = process.take(), process.take()
    process.serve(now, then)
    with pytest.raises(SightLostError):
        process.engine.executor.continue_execution(*then, look_ahead=loses_sight)

    assert [statuses(client, each) for each in (one, two)] == [["start", "works"]] * 2
    assert not any(map(process.engine.locks.is_locked, (one, two)))
    process.drain()
    assert is_completed(client, one)
    assert is_completed(client, two)


@pytest.mark.usefixtures("knows_its_nodes")
def test_a_process_that_is_quiet_gives_back_its_connection_for_commits(
    client: WorkflowClient, process: PoolProcess, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connections() -> int:
        ((count,),) = client._engine.database.rows(CONNECTIONS)
        return int(count)

    monkeypatch.setattr("workflow_engine.engine.overlap.QUIET", 0.1)
    process.engine.database.rest()
    one, two = client.start("line").id, client.start("line").id
    now, then = process.take(), process.take()
    with held_up(settings, one) as let_go:
        before = connections()
        process.serve(now, then)
        assert connections() == before + 1
        let_go()
    process.serve(then)

    poll(lambda: connections() < before, "that of the commits is closed, as is that of this test")
    process.drain()
    assert is_completed(client, one)
    assert is_completed(client, two)


@dataclass
class Collected:
    """Executions whose first nodes have run: one whose commit waits in Postgres, and those behind it."""

    awaited: str
    behind: list[str]
    then: NextMessage
    """The message in sight of the process."""


@contextmanager
def collected(
    client: WorkflowClient, process: PoolProcess, settings: Settings, number: int
) -> Iterator[Collected]:
    """Hold up the commit of one execution while so many nodes of others run behind it."""
    started = [client.start("line").id for _ in range(number + 2)]
    messages = [process.take() for _ in started]
    with held_up(settings, started[0]):
        for now, then in pairwise(messages):
            process.serve(now, then)
        yield Collected(started[0], started[1:-1], messages[-1])


@pytest.mark.usefixtures("knows_its_nodes", "hurries_no_hop")
def test_one_statement_makes_all_commits_that_were_collected_behind_one_that_is_late(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    with collected(client, process, settings, 3) as found:
        assert len(runs) == 4, "no node waits for the commit of another"
        assert all(statuses(client, each) == ["start"] for each in (found.awaited, *found.behind))
        assert all(map(process.engine.locks.is_locked, found.behind)), "nothing follows before the results"

    process.serve(found.then)
    process.drain()
    made_by = client._engine.database.rows(TRANSACTIONS, executions=found.behind)
    assert len(made_by) == 1
    assert all(is_completed(client, each) for each in (found.awaited, *found.behind))
    assert is_completed(client, found.then.message.execution_id)
    assert len(runs) == 5, "no node has run again"


@pytest.mark.usefixtures("knows_its_nodes", "hurries_no_hop")
def test_a_process_with_many_commits_collected_waits_for_postgres(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    with collected(client, process, settings, MOST_COLLECTED) as found:
        client.start("line")
        serving = threading.Thread(target=process.serve, args=(found.then, process.take()))
        serving.start()
        poll(lambda: len(runs) == MOST_COLLECTED + 2, "the node has run")
        assert all(statuses(client, each) == ["start"] for each in found.behind)
    serving.join()

    def are_made() -> bool:
        return all(statuses(client, each) == ["start", "works"] for each in found.behind)

    poll(are_made, "they were sent, but this process need not have read the result")


@pytest.mark.usefixtures("knows_its_nodes", "hurries_no_hop", "refuses_bad_outputs")
def test_a_collected_commit_that_postgres_refuses_fails_its_own_node_and_no_other(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    outputs.extend(["done", "done", "bad"])
    with collected(client, process, settings, 3) as found:
        pass

    process.serve(found.then)
    process.drain()
    assert client.get(found.behind[1]).error == "data: Postgres refuses it: invalid byte sequence"
    others = [found.awaited, found.behind[0], found.behind[2], found.then.message.execution_id]
    assert all(is_completed(client, each) for each in others)
    assert len(runs) == 5, "no node has run again"


@pytest.mark.usefixtures("knows_its_nodes", "hurries_no_hop")
def test_collected_commits_whose_executions_are_cancelled_leave_the_others_alone(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    with collected(client, process, settings, 3) as found:
        client.control.cancel(found.behind[0])

    process.serve(found.then)
    process.drain()
    assert client.get(found.behind[0]).status is ExecutionStatus.CANCELLED
    assert all(is_completed(client, each) for each in (found.awaited, *found.behind[1:]))
    assert not any(map(process.engine.locks.is_locked, found.behind))


@pytest.mark.usefixtures("knows_its_nodes", "hurries_no_hop")
def test_a_process_that_ends_makes_the_commits_that_it_has_collected(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    with collected(client, process, settings, 2) as found:
        pass

    process.engine.executor.settle()

    assert all(statuses(client, each) == ["start", "works"] for each in (found.awaited, *found.behind))
    assert not any(map(process.engine.locks.is_locked, (found.awaited, *found.behind)))


@pytest.mark.usefixtures("knows_its_nodes")
def test_collected_commits_are_made_although_the_next_node_takes_long_for_once(
    client: WorkflowClient, process: PoolProcess, settings: Settings
) -> None:
    with collected(client, process, settings, 2) as found:
        pass
    whole = [["start", "works"]] * 2

    def are_made() -> bool:
        return [statuses(client, each) for each in found.behind] == whole

    meanwhile.append(lambda: poll(are_made, "the collected commits are made"))
    process.serve(found.then)

    process.drain()
    assert all(is_completed(client, each) for each in (found.awaited, *found.behind))


@pytest.mark.usefixtures("knows_its_nodes", "hurries_no_hop")
def test_a_process_that_dies_with_collected_commits_loses_none_of_their_executions(
    client: WorkflowClient, process: PoolProcess, other: PoolProcess, settings: Settings
) -> None:
    started = [client.start("line").id for _ in range(4)]
    messages = [process.take() for _ in started]
    with held_up(settings, started[0]):
        if os.fork() == 0:
            for now, then in pairwise(messages):
                process.serve(now, then)
            os.kill(os.getpid(), signal.SIGKILL)
        os.wait()
        assert all(statuses(client, each) == ["start"] for each in started)

    for each in started:
        value = other.engine.locks.value_of(each)
        assert value is not None
        assert other.engine.locks.free(each, value), "as the takeover does"
        assert other.engine.executor.resume_execution(each)
    other.drain()
    assert all(is_completed(client, each) for each in started)
