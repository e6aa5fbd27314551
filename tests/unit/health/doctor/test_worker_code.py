"""The doctor names the deployed code that the workers of a queue lack."""

from __future__ import annotations

from support.findings import judged_workers, not_ok, worker_that_knows
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
