"""The doctor checks the report of the engine inside each worker against what is deployed."""

from __future__ import annotations

from typing import Any

import pytest

from support.findings import judged_workers, not_ok, reporting, worker
from workflow_engine.health.doctor import Severity
from workflow_engine.health.doctor.postgres import CodeInUse

KNOWN_CELERY = "Is their Celery the one that this release knows?"


@pytest.mark.parametrize(
    ("facts", "code", "question", "severity", "words"),
    [
        (
            {"clock_ahead": 60.0},
            (),
            "Do their clocks and the database's agree?",
            Severity.WARNING,
            "celery@odd is 70 s ahead",
        ),
        (
            {"clock_ahead": -20.0},
            (),
            "Do their clocks and the database's agree?",
            Severity.WARNING,
            "celery@odd is 10 s behind",
        ),
        (
            {"settings": {"database_schema": "public", "key_prefix": "shop:"}},
            (),
            "Do they use the same tables and keys as this process?",
            Severity.PROBLEM,
            "celery@odd has key_prefix 'shop:', not ''",
        ),
        (
            {"time_limit": 300.0, "soft_time_limit": 250.0},
            (CodeInUse("shop", "action", "function", None, None, 280.0),),
            "May a node take as long as it needs?",
            Severity.WARNING,
            "Celery's time limit is 250 s on celery@odd, below the timeout of nodes of shop",
        ),
        (
            {"pool": "threads"},
            (CodeInUse("shop", "action", "function", None, None, 5.0),),
            "Can a running node be ended without its worker?",
            Severity.WARNING,
            "not on celery@odd (threads), where nodes of shop have a timeout: a node that ignores its",
        ),
        (
            {"changed_internals": ("AsynPool._cache is missing",)},
            (),
            KNOWN_CELERY,
            Severity.WARNING,
            "no, on celery@odd: AsynPool._cache is missing. They fall back to Celery's own code",
        ),
    ],
)
def test_the_report_of_a_worker_s_engine_is_checked_against_what_is_deployed(
    facts: dict[str, Any], code: tuple[CodeInUse, ...], question: str, severity: Severity, words: str
) -> None:
    odd = reporting("celery@odd", **{"clock_ahead": -10.0, **facts})

    found = judged_workers(reporting(clock_ahead=-10.0), odd, code=code, database_ahead=-10.0)

    assert not_ok(found) == [(question, severity)]
    assert words in next(finding.answer for finding in found if finding.question == question)


def test_time_limits_and_pools_that_affect_nothing_deployed_are_only_mentioned() -> None:
    code = (CodeInUse("shop", "action", "function", None, None, 5.0),)
    limited = judged_workers(reporting(time_limit=300.0), code=code, database_ahead=0.0)
    alone = judged_workers(reporting("celery@solo", pool="solo"), database_ahead=0.0)

    assert not_ok([*limited, *alone]) == []
    limits, pools = (
        next(finding.answer for finding in found if finding.question == question)
        for found, question in (
            (limited, "May a node take as long as it needs?"),
            (alone, "Can a running node be ended without its worker?"),
        )
    )
    assert "300 s on celery@one" in limits
    assert "celery@solo (solo)" in pools


def test_the_workers_that_use_private_parts_of_celery_are_named() -> None:
    some = judged_workers(reporting("a", uses_celery_internals=True), reporting("b"))
    none = judged_workers(reporting("b"))

    answers = [each.answer for each in [*some, *none] if each.question == KNOWN_CELERY]
    assert answers == [
        "yes; its private parts are used by a",
        "yes; its private parts are used by none",
    ]


def test_a_worker_whose_engine_does_not_reply_is_asked_nothing_else() -> None:
    questions = [finding.question for finding in judged_workers(worker(), database_ahead=0.0)]

    assert "Do their clocks and the database's agree?" not in questions
