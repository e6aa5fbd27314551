"""The doctor reports Celery settings that break a promise, and none that a team's own tasks rely on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from support.findings import TASK, advice, judged_workers, not_ok, of_the_team, worker
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.health.doctor import Severity


@pytest.mark.parametrize(
    ("settings", "question", "severity"),
    [
        ({"broker_transport_options": {}}, "Does the broker deliver a message only once?", Severity.PROBLEM),
        ({"worker_prefetch_multiplier": 4}, "Does a worker take one message at a time?", Severity.WARNING),
        (
            {"broker_channel_error_retry": False},
            "Does a worker survive a broker that is full or read-only?",
            Severity.WARNING,
        ),
        ({"accept_content": ["pickle"]}, "Does a worker read JSON messages?", Severity.PROBLEM),
        ({"task_serializer": "pickle"}, "Does a worker write JSON messages?", Severity.WARNING),
    ],
)
def test_unsafe_settings_are_reported_with_the_worker_that_has_them(
    settings: dict[str, Any], question: str, severity: Severity
) -> None:
    found = judged_workers(worker(), worker("celery@odd", **settings))

    assert not_ok(found) == [(question, severity)]
    reported = next(finding for finding in found if finding.question == question)
    assert "celery@odd" in reported.answer
    assert reported.advice


@pytest.mark.parametrize(
    ("attribute", "value", "question"),
    [
        ("acks_late", "False", "Does a worker that stops requeue its node?"),
        ("reject_on_worker_lost", "True", "Is a lost process left to the engine?"),
    ],
)
def test_annotations_that_change_the_engines_task_are_a_problem(
    attribute: str, value: str, question: str
) -> None:
    changed = dataclasses.replace(worker(), tasks={TASK_NAME: {**TASK, attribute: value}})

    assert not_ok(judged_workers(changed)) == [(question, Severity.PROBLEM)]


def test_a_team_is_never_advised_to_give_up_what_its_own_tasks_rely_on() -> None:
    unsafe = worker(broker_transport_options={"visibility_timeout": 7200}, worker_prefetch_multiplier=4)

    (alone,) = advice(judged_workers(unsafe), Severity.PROBLEM)
    beside = judged_workers(of_the_team(unsafe))

    assert "if it has no tasks of your own, which a killed worker would lose" in alone
    assert advice(beside, Severity.PROBLEM) == []
    emulation, prefetch = advice(beside, Severity.WARNING)
    assert "7,200 s" in emulation
    assert "leave it on, or a killed worker loses your own tasks" in emulation
    assert "celery -A workflow_engine.worker worker" in emulation
    assert "'ack_emulation': False" not in emulation
    assert "--prefetch-multiplier 1" in prefetch
    assert "worker_prefetch_multiplier" not in prefetch


@pytest.mark.parametrize(
    ("use_ssl", "is_told"),
    [
        (False, True),
        (True, True),  # for which kombu does not even encrypt
        ({"ssl_cert_reqs": "none"}, True),
        ({"ssl_cert_reqs": 2}, False),
        ({"ssl_cert_reqs": "required"}, False),
    ],
)
def test_a_worker_that_does_not_verify_its_broker_is_reported(use_ssl: object, is_told: bool) -> None:
    report = worker(broker_url="rediss://broker.example.com:6379//", broker_use_ssl=use_ssl)

    expected = [("Does a worker verify an encrypted broker?", Severity.WARNING)] if is_told else []
    assert not_ok(judged_workers(report)) == expected


def test_ack_emulation_is_a_matter_of_redis_only() -> None:
    on_rabbitmq = worker(broker_url="amqp://localhost//", broker_transport_options={})

    assert not_ok(judged_workers(on_rabbitmq)) == []
