"""The doctor reports that no worker runs the engine's nodes, or that none consumes a queue that they need."""

from __future__ import annotations

from support.findings import SAFE, judged_workers, not_ok, worker
from workflow_engine.broker.inspection import WorkerReport
from workflow_engine.health.doctor import Severity
from workflow_engine.health.doctor.postgres import CodeInUse


def test_good_workers_have_nothing_to_complain_about() -> None:
    assert not_ok(judged_workers(worker(), worker("celery@two", queues=()))) == []


def test_without_any_worker_that_is_the_only_problem() -> None:
    assert not_ok(judged_workers()) == [("Is there a worker?", Severity.PROBLEM)]


def test_workers_that_lack_the_engines_task_are_no_use() -> None:
    stranger = WorkerReport("celery@else", frozenset({"workflow"}), {"shop.tasks.mail": {}}, SAFE)

    assert not_ok(judged_workers(stranger)) == [("Does it have the engine's task?", Severity.PROBLEM)]


def test_a_queue_that_only_a_stranger_consumes_is_a_problem() -> None:
    stranger = WorkerReport("celery@else", frozenset({"workflow"}), {}, SAFE)

    found = judged_workers(stranger, worker(queues=("other",)))

    assert not_ok(found) == [("Is the queue 'workflow' consumed?", Severity.PROBLEM)]


def test_queues_that_nodes_name_have_to_be_consumed_too() -> None:
    code = (CodeInUse("shop", "action", "function", None, "slow"),)

    found = judged_workers(worker(), code=code)

    assert not_ok(found) == [("Is the queue 'slow' consumed?", Severity.PROBLEM)]
    assert "nodes of shop would wait" in next(f.answer for f in found if "'slow'" in f.question)
