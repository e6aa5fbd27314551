"""The doctor names the deployed code that the workers of a queue lack."""

from __future__ import annotations

import dataclasses

from support.findings import advice, judged_workers, not_ok, reporting, worker_that_knows
from workflow_engine.broker.inspection import WorkerReport
from workflow_engine.health.doctor import Severity
from workflow_engine.health.doctor.postgres import CodeInUse

ORDER = (
    CodeInUse("order", "action", "shop.charge", None, None),
    CodeInUse("order", "action", "python", "shop.mail", None),
    CodeInUse("order", "action", "shop.render", None, "gpu"),
)

COMMON = ("action/shop.charge", "shop.mail")


def test_workers_that_know_the_code_of_their_queues_have_nothing_to_complain_about() -> None:
    common = worker_that_knows("a", *COMMON)
    rendering = worker_that_knows("b", "action/shop.render", queues=("gpu",))

    found = judged_workers(common, rendering, code=ORDER)

    assert not_ok(found) == []


def test_code_that_no_worker_of_its_queue_knows_is_a_problem() -> None:
    on_another_queue = worker_that_knows("a", *COMMON, "action/shop.render")
    without_it = worker_that_knows("b", *COMMON, queues=("gpu",))

    found = judged_workers(on_another_queue, without_it, code=ORDER)

    ((question, severity),) = not_ok(found)
    assert (question, severity) == ("Do the workers have the code of deployed workflows?", Severity.PROBLEM)
    (answer,) = [finding.answer for finding in found if finding.question == question]
    assert answer == "none has action/shop.render, which order needs"


def test_code_that_some_workers_lack_is_worth_a_warning() -> None:
    found = judged_workers(
        worker_that_knows("new", *COMMON, release="2"),
        worker_that_knows("old", "shop.mail"),
        worker_that_knows("b", "action/shop.render", queues=("gpu",)),
        code=ORDER,
    )

    assert not_ok(found) == [
        ("Do the workers have the code of deployed workflows?", Severity.WARNING),
        ("Do the workers run the same release?", Severity.WARNING),
    ]
    answers = [finding.answer for finding in found]
    assert "not all: action/shop.charge is missing on old" in answers
    assert "no: 1 on old, b; 2 on new" in answers


CHARGE = (CodeInUse("order", "action", "celery-task", None, None, named_task="shop.charge"),)


def with_tasks(report: WorkerReport, **options: str) -> WorkerReport:
    """Return this worker with the task, which has these options."""
    return dataclasses.replace(report, tasks={**report.tasks, "shop.charge": options})


def test_a_task_that_no_worker_has_is_a_problem() -> None:
    found = judged_workers(reporting("a"), code=CHARGE)

    ((question, severity),) = not_ok(found)
    assert (question, severity) == ("Do the workers have the code of deployed workflows?", Severity.PROBLEM)
    (advised,) = advice(found, Severity.PROBLEM)
    assert advised.startswith("none has shop.charge, which order needs → import its module in the Celery app")


def test_a_task_may_be_on_the_workers_of_its_own_queue_only() -> None:
    payments = dataclasses.replace(
        with_tasks(reporting("b"), acks_late="True"), queues=frozenset({"payments"})
    )

    assert not_ok(judged_workers(reporting("a"), payments, code=CHARGE)) == []


def test_options_of_a_task_that_do_not_apply_to_its_node_are_worth_a_warning() -> None:
    found = judged_workers(with_tasks(reporting("a"), rate_limit="10/m", expires="60"), code=CHARGE)

    (advised,) = advice(found, Severity.WARNING)
    assert advised.startswith("not those of shop.charge (rate_limit=10/m, expires=60) → a node is neither")


def test_a_task_that_would_not_run_again_as_a_task_is_named() -> None:
    answers = [finding.answer for finding in judged_workers(with_tasks(reporting("a")), code=CHARGE)]

    assert any(answer.startswith("yes; shop.charge would not run again as a task") for answer in answers)
