"""Where a worker runs several nodes, rows of pure ones are committed with the next, and promise the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from support.broker import Broker, Workers
from support.command_line import run_json
from support.polling import poll
from workflow_engine import ExecutionContext, ExecutionStatus, WorkflowBuilder, WorkflowClient, node
from workflow_engine.engine import inline
from workflow_engine.engine.assembly import Engine
from workflow_engine.execution.records import NodeCommit
from workflow_engine.postgres.executions.state import ExecutionStateService

TEST_PROCESS = os.getpid()

MODES = pytest.mark.parametrize(
    "settings_of", [{"hops": "inline"}, {"pure": "inline"}], ids=["inline", "pure"]
)

during: dict[str, Callable[[], object]] = {}
"""The actions, each while the node of its name runs."""
ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    during.clear()
    ran.clear()
    # A busy machine commits earlier, and begins another slice.
    monkeypatch.setattr(inline, "LONGEST_UNCOMMITTED", 60.0)
    monkeypatch.setattr(inline, "TIME_SLICE", 60.0)


@node("test.acts")
def acts(context: ExecutionContext) -> str:
    return _run(context.current_node_id)


@node("test.computes", pure=True)
def computes(context: ExecutionContext) -> str:
    return _run(context.current_node_id)


def _run(node_id: str) -> str:
    ran.append(node_id)
    during.get(node_id, lambda: None)()
    return f"from {node_id}"


def deploy(client: WorkflowClient, nodes: str, settings: dict[str, Any], **options: Any) -> None:
    """Deploy a line of nodes; those whose name begins with `p` are pure."""
    flow = WorkflowBuilder("line", settings=settings)
    last: Any = flow.trigger("start")
    for name in nodes.split():
        function = "test.computes" if name.startswith("p") else "test.acts"
        last = last >> flow.python(name, function, **options)
    client.deploy(flow.build())


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the nodes of each commit, to which further ones are added."""
    seen: list[list[str]] = []
    update_execution = ExecutionStateService.update_execution

    def commit_of(state: ExecutionStateService, commit: NodeCommit) -> Any:
        seen.append([each.node_id for each in (*commit.before, commit)])
        return update_execution(state, commit)

    send_updates = ExecutionStateService.send_updates

    def commits_of(state: ExecutionStateService, commits: Sequence[NodeCommit]) -> Any:
        seen.extend([each.node_id for each in (*commit.before, commit)] for commit in commits)
        return send_updates(state, commits)

    monkeypatch.setattr(ExecutionStateService, "update_execution", commit_of)
    monkeypatch.setattr(ExecutionStateService, "send_updates", commits_of)
    return seen


def test_every_other_node_being_pure_halves_the_commits_and_each_node_has_its_row(
    client: WorkflowClient, workers: Workers, commits: list[list[str]]
) -> None:
    deploy(client, "p1 a1 p2 a2 p3 a3 p4 a4 p5 a5", {"hops": "inline"})
    execution = client.start("line").id

    assert workers.drain() == 1

    assert commits == [["p1", "a1"], ["p2", "a2"], ["p3", "a3"], ["p4", "a4"], ["p5", "a5"]]
    journal = client.journal(execution)
    assert [row.seq for row in journal] == list(range(1, 12))
    assert [row.node_id for row in journal] == ["start", *(node_id for each in commits for node_id in each)]
    assert [row.output_data for row in journal[1:]] == [f"from {row.node_id}" for row in journal[1:]]
    assert {row.status.value for row in journal} == {"COMPLETED"}
    for before, after in pairwise(journal[1:]):
        assert before.started_at <= before.completed_at
        assert before.completed_at <= after.completed_at
    result = client.get(execution)
    assert (result.result, result.nodes_executed) == ("from a5", 10)


@MODES
def test_pure_nodes_alone_are_one_commit(
    client: WorkflowClient, workers: Workers, commits: list[list[str]], settings_of: dict[str, Any]
) -> None:
    deploy(client, "p1 p2 p3 p4 p5 p6 p7 p8 p9 p10", settings_of)
    execution = client.start("line").id

    assert workers.drain() == 1

    assert [len(each) for each in commits] == [10]
    assert client.get(execution).status is ExecutionStatus.COMPLETED
    assert len(client.journal(execution)) == 11


def test_pure_nodes_run_where_they_became_due_and_others_have_messages_of_their_own(
    client: WorkflowClient, workers: Workers, commits: list[list[str]]
) -> None:
    deploy(client, "a1 p1 p2 a2 a3 p3", {"pure": "inline"})
    client.start("line")

    assert workers.drain() == 3

    assert commits == [["a1"], ["p1", "p2"], ["a2"], ["a3"], ["p3"]]


def test_unless_a_workflow_says_so_each_pure_node_is_a_task_of_its_own(
    client: WorkflowClient, workers: Workers
) -> None:
    deploy(client, "a1 p1 p2 a2", {})
    client.start("line")

    assert workers.drain() == 4


@pytest.mark.parametrize("option", [{"timeout": 60}, {"queue": "slow"}, {"priority": 6}], ids=str)
def test_a_pure_node_with_a_timeout_queue_or_priority_of_its_own_has_a_message_of_its_own(
    client: WorkflowClient, workers: Workers, option: dict[str, Any]
) -> None:
    deploy(client, "p1 p2", {"pure": "inline"}, **option)
    client.start("line")

    assert workers.drain() == 2


def test_no_more_than_so_many_rows_bytes_and_seconds_wait_for_a_commit(
    client: WorkflowClient, workers: Workers, commits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(client, "p1 p2 p3 p4", {"hops": "inline"})

    for limit, value in (
        ("MOST_UNCOMMITTED", 2),
        ("MOST_BYTES_UNCOMMITTED", 100),
        ("LONGEST_UNCOMMITTED", -1.0),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(inline, limit, value)
            client.start("line")
            workers.drain()

    assert [len(each) for each in commits] == [2, 2, 3, 1, 1, 1, 1, 1]


def test_a_breakpoint_stops_before_its_node_although_pure_ones_lead_to_it(
    client: WorkflowClient, workers: Workers
) -> None:
    deploy(client, "p1 p2 a1 p3 a2", {"hops": "inline"})
    client.control.workflows.pause_before("line", "a1")
    execution = client.start("line").id
    client.control.pause_before(execution, "a2")

    workers.drain()
    assert (ran, client.get(execution).status) == (["p1", "p2"], ExecutionStatus.PAUSED)
    client.control.resume(execution)
    workers.drain()
    assert (ran[2:], client.get(execution).status) == (["a1", "p3"], ExecutionStatus.PAUSED)
    client.control.clear_breakpoints(execution)
    client.control.resume(execution)
    workers.drain()

    assert client.get(execution).status is ExecutionStatus.COMPLETED


@pytest.mark.parametrize("of_workflow", [True, False], ids=["of the workflow", "of the execution"])
def test_a_breakpoint_that_is_set_on_the_walk_stops_it(
    client: WorkflowClient, workers: Workers, of_workflow: bool
) -> None:
    deploy(client, "p1 a1 p2 a2 p3 a3", {"hops": "inline"})
    execution = client.start("line").id
    during["a1"] = lambda: (
        client.control.workflows.pause_before("line", "a3")
        if of_workflow
        else client.control.pause_before(execution, "a3")
    )

    workers.drain()

    assert ran == ["p1", "a1", "p2", "a2", "p3"]
    assert client.get(execution).status is ExecutionStatus.PAUSED


def test_a_pause_stops_the_walk_behind_the_node_that_is_committed_next(
    client: WorkflowClient, workers: Workers
) -> None:
    deploy(client, "p1 a1 p2 a2", {"hops": "inline"})
    execution = client.start("line").id
    during["p1"] = lambda: client.control.pause(execution)

    workers.drain()

    assert client.get(execution).status is ExecutionStatus.PAUSED
    assert ran == ["p1", "a1"]
    assert [row.node_id for row in client.journal(execution)] == ["start", "p1", "a1"]
    client.control.resume(execution)
    workers.drain()
    assert ran == ["p1", "a1", "p2", "a2"]


def test_with_a_cancelled_execution_all_rows_that_wait_are_refused(
    client: WorkflowClient, workers: Workers
) -> None:
    deploy(client, "p1 p2 a1 a2", {"hops": "inline"})
    execution = client.start("line").id
    during["a1"] = lambda: client.control.cancel(execution)

    workers.drain()

    assert [row.node_id for row in client.journal(execution)] == ["start"]
    assert client.get(execution).status is ExecutionStatus.CANCELLED


def test_a_commit_whose_answer_was_lost_is_found_in_place(
    client: WorkflowClient, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(client, "p1 p2 a1 p3", {"hops": "inline"})
    update_execution = ExecutionStateService.update_execution
    answers = []

    def twice(state: ExecutionStateService, commit: NodeCommit) -> Any:
        update_execution(state, commit)
        answers.append(update_execution(state, commit))
        return answers[-1]

    monkeypatch.setattr(ExecutionStateService, "update_execution", twice)
    execution = client.start("line").id

    workers.drain()

    assert [(answer.accepted, answer.seq) for answer in answers] == [(True, 4), (True, 5)]
    assert [row.node_id for row in client.journal(execution)] == ["start", "p1", "p2", "a1", "p3"]


def test_a_pure_node_that_fails_is_committed_with_those_before_it(
    client: WorkflowClient, workers: Workers, commits: list[list[str]]
) -> None:
    flow = WorkflowBuilder("line", settings={"hops": "inline"})
    first = flow.trigger("start") >> flow.python("p1", "test.computes")
    wrong = first >> flow.function("wrong", "{{ p1.no_such_key + 1 }}")
    wrong.on_error >> flow.function("p2", "{{ wrong.error.type }}") >> flow.python("a1", "test.acts")
    client.deploy(flow.build())
    execution = client.start("line").id

    workers.drain()

    assert commits == [["p1", "wrong"], ["p2", "a1"]]
    assert client.context(execution).node_outputs["p2"] == "ExpressionError"


def test_nodes_see_what_pure_ones_before_them_have_left(client: WorkflowClient, workers: Workers) -> None:
    def gathers(context: ExecutionContext) -> dict[str, Any]:
        looked = context.node_outputs["double"]
        return {
            "looked": looked,
            "path": context.metadata["executionPath"],
            "rate": context.variables["rate"],
        }

    node("test.gathers")(gathers)
    flow = WorkflowBuilder("line", settings={"hops": "inline"})
    last = flow.trigger("start") >> flow.function("double", "{{ _trigger.n * 2 }}")
    last = last >> flow.set("sets", {"rate": "{{ double + 1 }}"}) >> flow.python("a1", "test.gathers")
    last >> flow.function("path", "{{ _metadata.executionPath }}")
    client.deploy(flow.build())
    execution = client.start("line", {"n": 4}).id

    workers.drain()

    outputs = client.context(execution).node_outputs
    assert outputs["a1"] == {"looked": 8, "path": ["start", "double", "sets"], "rate": 9}
    assert outputs["path"] == ["start", "double", "sets", "a1"]


def test_before_a_node_runs_what_another_branch_could_change_is_committed(
    client: WorkflowClient, workers: Workers, commits: list[list[str]]
) -> None:
    flow = WorkflowBuilder("two", variables={"currency": "EUR"}, settings={"hops": "inline"})
    start = flow.trigger("start")
    start >> flow.function("reads_variable", "{{ currency }}") >> flow.python("a1", "test.acts")
    start >> flow.function("reads_past", "{{ _trigger.id }}") >> flow.python("a2", "test.acts")
    start >> flow.python("a3", "test.acts")
    client.deploy(flow.build())
    client.start("two", {"id": 1})

    workers.drain()

    assert commits == [["reads_variable"], ["a1"], ["reads_past", "a2"], ["a3"]]


# -- crashes ---------------------------------------------------------------------------------------------


def die_unless_in_the_test() -> None:
    if os.getpid() != TEST_PROCESS:
        os.kill(os.getpid(), signal.SIGKILL)


def crash(worker: Engine, broker: Broker, execution: str) -> None:
    """Serve the next message in a process that dies, and resume its execution."""
    message = broker.take()
    if os.fork() == 0:
        worker.executor.continue_execution(message)
        os._exit(0)
    os.wait()
    poll(lambda: not worker.locks.is_locked(execution), "the lock of a dead process expires")
    worker.executor.resume_execution(execution)


@pytest.mark.parametrize("deadly", ["p1", "p2", "a1"])
def test_after_a_crash_what_is_pure_is_repeated_and_nothing_else_but_the_node_that_ran(
    client: WorkflowClient, new_engine: Callable[..., Engine], broker: Broker, deadly: str
) -> None:
    deploy(client, "a0 p1 p2 a1 a2", {"hops": "inline"})
    worker = new_engine(lock_expiry=0.5)
    execution = client.start("line").id
    during[deadly] = die_unless_in_the_test

    crash(worker, broker, execution)
    assert [row.node_id for row in client.journal(execution)] == ["start", "a0"]
    Workers(broker, worker).drain()

    assert ran == ["p1", "p2", "a1", "a2"], "of this process"
    assert client.get(execution).status is ExecutionStatus.COMPLETED


@pytest.mark.parametrize("deadly", ["p1", "p2", "a1"])
def test_a_node_that_keeps_killing_its_process_behind_pure_ones_is_the_one_that_fails(
    client: WorkflowClient, new_engine: Callable[..., Engine], broker: Broker, deadly: str
) -> None:
    deploy(client, "p1 p2 a1 a2", {"hops": "inline"})
    worker = new_engine(lock_expiry=0.5, max_recoveries=1)
    execution = client.start("line").id
    during[deadly] = die_unless_in_the_test

    for _ in range(2):
        assert client.get(execution).status is not ExecutionStatus.FAILED
        crash(worker, broker, execution)
    Workers(broker, worker).drain()

    last = client.journal(execution)[-1]
    assert (last.node_id, last.error_details) == (deadly, {"type": "WORKER_LOST"})
    assert client.get(execution).status is ExecutionStatus.FAILED


@MODES
@pytest.mark.usefixtures("commands_use_the_servers")
def test_a_long_node_behind_rows_that_are_not_committed_is_shown_as_the_one_that_runs(
    client: WorkflowClient, workers: Workers, engine: Engine, settings_of: dict[str, Any]
) -> None:
    deploy(client, "a p1 p2 b", settings_of)
    execution = client.start("line").id
    seen: dict[str, Any] = {}

    def look() -> None:
        engine.running_nodes.look()
        shown = run_json("show", execution)["nodes"]
        seen.update({node["id"]: node["status"] for node in shown})
        seen["progress"] = [node["progress"] for node in shown if node["progress"]]
        seen["explained"] = client.explain(execution)

    during["p2"] = look
    workers.drain()

    assert seen["p2"] == "RUNNING"
    assert [seen["p1"], seen["b"], seen["progress"]] == [None, None, []]
    assert seen["explained"].node_id == "p2"
    assert seen["explained"].sentence.startswith("Node p2 runs on ")


OUTPUTS = """
SELECT node_id, output_data::text FROM node_executions WHERE execution_id = %s AND seq > 1 ORDER BY seq
"""


@node("test.finds_nothing", pure=True)
def finds_nothing(context: ExecutionContext) -> None:
    ran.append(context.current_node_id)


@MODES
def test_nothing_is_an_output_too_whether_it_is_committed_alone_or_with_others(
    client: WorkflowClient, workers: Workers, commits: list[list[str]], sql: Any, settings_of: dict[str, Any]
) -> None:
    flow = WorkflowBuilder("nothing", settings=settings_of)
    first = flow.trigger("start") >> flow.python("first", "test.finds_nothing")
    first >> flow.python("second", "test.finds_nothing") >> flow.set("last", variables={"a": None})
    client.deploy(flow.build())

    execution = client.start("nothing").id

    workers.drain()
    assert ["first", "second", "last"] in commits
    assert sql(OUTPUTS, execution) == [("first", "null"), ("second", "null"), ("last", '{"a": null}')]
