"""Workers may end, freeze, die or start too early, and their Redis may be killed: executions go on."""

from __future__ import annotations

import signal

from pytest_celery import CeleryTestSetup

from support.fleet import BOTH_WAYS, Fleet
from support.polling import poll
from workflow_engine import NodeStatus, WorkflowBuilder
from workflow_engine.postgres import migrations


@BOTH_WAYS
def test_a_terminated_worker_lets_its_node_end_and_loses_nothing(own_fleet: Fleet) -> None:
    fleet = own_fleet
    fleet.add_workers("one", "two", concurrency=1)
    deploy_two_gated_nodes(fleet)
    execution_id = fleet.start("two-gated-nodes", {"order": 42})
    leaving = fleet.worker_of(fleet.begun(execution_id, "first"))

    leaving.kill("SIGTERM")
    poll(lambda: leaving.lines("Warm shutdown"), "the worker ends")
    fleet.open_gate(execution_id, "first")
    fleet.open_gate(execution_id, "second")

    assert fleet.completed(execution_id).result == 42
    assert leaving.container.wait(timeout=10) == 0
    assert [run.node_id for run in fleet.runs(execution_id)] == ["first", "second"]


@BOTH_WAYS
def test_a_worker_that_may_not_wait_gives_its_node_back(own_fleet: Fleet) -> None:
    fleet = own_fleet
    hurried = "from workflow_engine.worker.app import app\napp.conf.worker_soft_shutdown_timeout = 0.5\n"
    (fleet.folder / "hurried.py").write_text(hurried)
    fleet.add_workers("one", "two", app="hurried", concurrency=1)
    deploy_two_gated_nodes(fleet)
    execution_id = fleet.start("two-gated-nodes", {"order": 42})
    leaving = fleet.worker_of(fleet.begun(execution_id, "first"))

    leaving.kill("SIGQUIT")  # what SIGTERM is in a container, with REMAP_SIGTERM
    fleet.begun(execution_id, "first", times=2)
    fleet.open_gate(execution_id, "first")
    fleet.open_gate(execution_id, "second")

    assert fleet.completed(execution_id).result == 42
    assert leaving.container.wait(timeout=10) == 0
    assert [row.node_id for row in fleet.journal(execution_id)] == ["begin", "first", "second"]
    [interruption] = fleet.client.control.audit(execution_id)
    assert (interruption.type, interruption.name, interruption.seq) == ("INTERRUPTED", "first", 1)
    assert interruption.reason == "the worker ends"
    assert interruption.actor in leaving.logs()


@BOTH_WAYS
def test_a_worker_that_ends_says_which_messages_it_gave_back(own_fleet: Fleet) -> None:
    fleet = own_fleet
    greedy = "from workflow_engine.worker.app import app\napp.conf.worker_prefetch_multiplier = 3\n"
    (fleet.folder / "greedy.py").write_text(greedy)
    leaving = fleet.add_worker("one", app="greedy", concurrency=1)
    leaving.ready()
    deploy_two_gated_nodes(fleet)
    running, *waiting = (fleet.start("two-gated-nodes", {"order": order}) for order in range(3))
    fleet.begun(running, "first")
    poll(lambda: len(leaving.lines("two-gated-nodes/first", "received")) == 3, "it has taken all messages")

    leaving.kill("SIGTERM")
    poll(lambda: leaving.lines("Warm shutdown"), "the worker ends")
    fleet.open_gate(running, "first")
    assert leaving.container.wait(timeout=10) == 0

    for execution_id in waiting:
        [line] = fleet.client.control.audit(execution_id)
        assert (line.type, line.name, line.reason) == ("REQUEUED", "first", "the worker ends")
        assert fleet.runs(execution_id) == []
    assert fleet.client.control.audit(running) == []
    fleet.add_worker("two").ready()
    for execution_id in (running, *waiting):
        fleet.open_gate(execution_id, "first")
        fleet.open_gate(execution_id, "second")
    for execution_id in (running, *waiting):
        fleet.completed(execution_id)


def test_a_worker_all_of_whose_processes_are_terminated_hands_its_node_on(own_fleet: Fleet) -> None:
    fleet = own_fleet
    fleet.add_workers("one", "two", concurrency=1)
    deploy_two_gated_nodes(fleet)
    execution_id = fleet.start("two-gated-nodes", {"order": 42})
    leaving = fleet.worker_of(fleet.begun(execution_id, "first"))

    leaving.container.kill_group(signal.SIGTERM)  # as systemd does
    fleet.begun(execution_id, "first", times=2)
    fleet.open_gate(execution_id, "first")
    fleet.open_gate(execution_id, "second")

    assert fleet.completed(execution_id).result == 42
    assert leaving.container.wait(timeout=10) == 0


def test_a_worker_frozen_past_its_lock_is_refused_when_it_wakes(fleet: Fleet) -> None:
    deploy_two_gated_nodes(fleet)
    execution_id = fleet.start("two-gated-nodes", {"order": 42})
    first_run = fleet.begun(execution_id, "first")
    frozen = fleet.worker_of(first_run)

    frozen.freeze()
    fleet.resume(execution_id)  # as soon as the lock has expired
    second_run = fleet.begun(execution_id, "first", times=2)
    fleet.open_gate(execution_id, "first")
    fleet.begun(execution_id, "second")
    frozen.thaw()

    refused = f"The result of node first of execution {execution_id} was refused"
    poll(lambda: frozen.lines(refused), "the result of the frozen worker is refused")
    fleet.open_gate(execution_id, "second")
    assert fleet.completed(execution_id).result == 42
    journal = fleet.journal(execution_id)
    assert [(row.node_id, row.status) for row in journal] == [
        ("begin", NodeStatus.COMPLETED),
        ("first", NodeStatus.COMPLETED),
        ("second", NodeStatus.COMPLETED),
    ]
    assert journal[1].worker.endswith(f":{second_run.process}")
    assert first_run.process != second_run.process
    assert first_run.key == second_run.key
    assert len(fleet.runs(execution_id, "second")) == 1
    assert fleet.keys_of(execution_id) == []


def test_a_worker_that_wakes_while_its_node_runs_elsewhere_offers_its_result_once(fleet: Fleet) -> None:
    deploy_two_gated_nodes(fleet)
    execution_id = fleet.start("two-gated-nodes", {"order": 42})
    frozen = fleet.worker_of(fleet.begun(execution_id, "first"))

    frozen.freeze()
    fleet.resume(execution_id)
    fleet.begun(execution_id, "first", times=2)
    frozen.thaw()  # two processes now run the node, and either may commit it
    lost = f"The lock of execution {execution_id} was taken over"
    poll(lambda: frozen.lines(lost), "it notices that its lock is another's")
    fleet.open_gate(execution_id, "first")
    fleet.open_gate(execution_id, "second")

    assert fleet.completed(execution_id).result == 42
    assert [row.node_id for row in fleet.journal(execution_id)] == ["begin", "first", "second"]
    refused = f"The result of node first of execution {execution_id} was refused"
    poll(lambda: fleet.lines(refused), "the other result is refused")
    poll(lambda: fleet.keys_of(execution_id) == [], "nothing is left in Redis")


def test_a_killed_worker_leaves_an_execution_that_goes_on_elsewhere(
    celery_setup: CeleryTestSetup, celery_fleet: Fleet
) -> None:
    fleet = celery_fleet
    deploy_two_gated_nodes(fleet)
    execution_id = fleet.start("two-gated-nodes", {"order": 42})
    killed = fleet.worker_of(fleet.begun(execution_id, "first"))
    assert killed in celery_setup.worker_cluster

    killed.kill()
    fleet.resume(execution_id)  # as soon as the lock has expired
    fleet.begun(execution_id, "first", times=2)
    killed.restart()
    fleet.open_gate(execution_id, "first")
    fleet.open_gate(execution_id, "second")

    assert fleet.completed(execution_id).result == 42
    assert [row.node_id for row in fleet.journal(execution_id)] == ["begin", "first", "second"]


@BOTH_WAYS
def test_a_redis_that_is_killed_and_comes_back_empty_costs_only_time(
    celery_setup: CeleryTestSetup, celery_fleet: Fleet
) -> None:
    fleet = celery_fleet
    deploy_two_gated_nodes(fleet)
    execution_id = fleet.start("two-gated-nodes", {"order": 42})
    fleet.begun(execution_id, "first")

    celery_setup.broker.kill()
    fleet.open_gate(execution_id, "first")
    poll(lambda: len(fleet.journal(execution_id)) == 2, "the node is committed without Redis")
    celery_setup.broker.restart()
    fleet.open_gate(execution_id, "second")

    assert fleet.completed(execution_id, timeout=30).result == 42
    assert [run.node_id for run in fleet.runs(execution_id)] == ["first", "second"]


def test_a_worker_that_is_started_before_the_tables_says_what_to_do_and_loses_nothing(
    own_fleet: Fleet, empty_database_url: str
) -> None:
    fleet = own_fleet
    early = fleet.add_worker("early", WORKFLOW_ENGINE_DATABASE_URL=empty_database_url)
    early.ready()
    fleet.deliver("0190f5fe-7c00-7a00-8000-000000000000", "early", "only", seq=1)
    poll(lambda: early.lines("workflow-engine db upgrade"), "the log says what to do")

    migrations.upgrade(empty_database_url)

    poll(lambda: early.lines("Dropped the message for node only"), "the message was kept until then")


def deploy_two_gated_nodes(fleet: Fleet) -> None:
    flow = WorkflowBuilder("two-gated-nodes")
    first = flow.python("first", "test.gated", arguments={"value": "{{ begin.order }}"})
    flow.trigger("begin") >> first >> flow.python("second", "test.gated", arguments={"value": "{{ first }}"})
    fleet.client.deploy(flow.build())
