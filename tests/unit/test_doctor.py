"""What the doctor concludes from what servers and workers say about themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from workflow_engine import Settings
from workflow_engine.dispatch import TASK_NAME, WorkerReport
from workflow_engine.doctor import Finding, Severity
from workflow_engine.doctor.code import judge_code, judge_imports
from workflow_engine.doctor.postgres import CodeInUse, PostgresFacts, judge_postgres, place
from workflow_engine.doctor.redis_server import RedisFacts, judge_lock_server, judge_redis
from workflow_engine.doctor.workers import judge_workers
from workflow_engine.nodes import load_node_types

POSTGRES = PostgresFacts(
    version_number=160_004,
    version="16.4",
    round_trip_ms=0.4,
    skew=0.01,
    synchronous_commit="on",
    fsync="on",
    full_page_writes="on",
    is_read_only=False,
    standbys=0,
    asynchronous_standbys=0,
    revision="0001",
    newest_revision="0001",
    code_in_use=(),
)
REDIS = RedisFacts(
    version="7.2.4",
    round_trip_ms=0.1,
    mode="standalone",
    role="master",
    policy="noeviction",
    used_memory=10,
    max_memory=100,
    has_log=True,
)
SAFE = {
    "broker_url": "redis://localhost//",
    "broker_transport_options": {"ack_emulation": False},
    "worker_prefetch_multiplier": 1,
    "broker_channel_error_retry": True,
    "accept_content": ["json"],
    "task_serializer": "json",
}
TASK = {"acks_late": "True", "reject_on_worker_lost": "False"}


def worker(
    name: str = "celery@one", queues: tuple[str, ...] = ("workflow",), **settings: Any
) -> WorkerReport:
    return WorkerReport(name, frozenset(queues), {TASK_NAME: TASK}, {**SAFE, **settings})


def judged_workers(*reports: WorkerReport, code: tuple[CodeInUse, ...] = ()) -> list[Finding]:
    return list(judge_workers(reports, Settings(), code))


def not_ok(findings: list[Finding]) -> list[tuple[str, Severity]]:
    return [
        (finding.question, finding.severity) for finding in findings if finding.severity is not Severity.OK
    ]


def test_a_good_postgres_has_nothing_to_complain_about() -> None:
    assert not_ok(list(judge_postgres(POSTGRES))) == []


@pytest.mark.parametrize(
    ("fact", "question", "severity"),
    [
        ({"version_number": 130_012, "version": "13.12"}, "Is its version supported?", Severity.PROBLEM),
        ({"is_read_only": True}, "Can it be written to?", Severity.PROBLEM),
        ({"revision": None}, "Are the migrations current?", Severity.PROBLEM),
        ({"revision": "0000"}, "Are the migrations current?", Severity.PROBLEM),
        ({"synchronous_commit": "off"}, "Does it keep what it has confirmed?", Severity.WARNING),
        ({"fsync": "off"}, "Does it keep what it has confirmed?", Severity.WARNING),
        ({"full_page_writes": "off"}, "Does it keep what it has confirmed?", Severity.WARNING),
        (
            {"standbys": 2, "asynchronous_standbys": 1},
            "Does it keep that through a failover?",
            Severity.WARNING,
        ),
        (
            {"standbys": 1, "synchronous_commit": "local"},
            "Does it keep that through a failover?",
            Severity.WARNING,
        ),
        ({"skew": -3600.0}, "Do its clock and ours agree?", Severity.WARNING),
    ],
)
def test_what_is_wrong_with_postgres_is_found_and_nothing_else(
    fact: dict[str, Any], question: str, severity: Severity
) -> None:
    findings = list(judge_postgres(dataclasses.replace(POSTGRES, **fact)))

    assert not_ok(findings) == [(question, severity)]


def test_a_good_redis_has_nothing_to_complain_about() -> None:
    assert not_ok(list(judge_redis(REDIS))) == []


@pytest.mark.parametrize(
    ("fact", "question", "severity"),
    [
        ({"version": "6.0.16"}, "Is its version supported?", Severity.PROBLEM),
        ({"mode": "cluster"}, "Can it be written to?", Severity.PROBLEM),
        ({"role": "slave"}, "Can it be written to?", Severity.PROBLEM),
        ({"policy": "allkeys-lru"}, "Does it keep what it is given?", Severity.PROBLEM),
        ({"used_memory": 85}, "Has it memory left?", Severity.WARNING),
        ({"has_log": False}, "Does it survive a restart?", Severity.WARNING),
    ],
)
def test_what_is_wrong_with_redis_is_found_and_nothing_else(
    fact: dict[str, Any], question: str, severity: Severity
) -> None:
    findings = list(judge_redis(dataclasses.replace(REDIS, **fact)))

    assert not_ok(findings) == [(question, severity)]


def test_a_lock_server_need_not_survive_a_restart_but_has_to_stay_down_until_its_locks_have_expired() -> None:
    findings = list(judge_lock_server(dataclasses.replace(REDIS, has_log=False), lock_expiry=30))

    assert not_ok(findings) == []
    assert "30 s after it stopped" in next(f.answer for f in findings if f.question == "May it be restarted?")
    evicting = list(judge_lock_server(dataclasses.replace(REDIS, policy="allkeys-lru"), lock_expiry=30))
    assert not_ok(evicting) == [("Does it keep what it is given?", Severity.PROBLEM)]


def test_the_oldest_supported_versions_are_accepted() -> None:
    assert not_ok(list(judge_redis(dataclasses.replace(REDIS, version="6.2.0")))) == []
    assert not_ok(list(judge_postgres(dataclasses.replace(POSTGRES, version_number=140_000)))) == []


def test_good_workers_have_nothing_to_complain_about() -> None:
    assert not_ok(judged_workers(worker(), worker("celery@two", queues=()))) == []


def test_without_any_worker_that_is_the_only_problem() -> None:
    assert not_ok(judged_workers()) == [("Is there a worker?", Severity.PROBLEM)]


def test_workers_that_lack_the_engines_task_are_no_use() -> None:
    stranger = WorkerReport("celery@else", frozenset({"workflow"}), {"shop.tasks.mail": {}}, SAFE)

    assert not_ok(judged_workers(stranger)) == [("Does it know the engine's task?", Severity.PROBLEM)]


def test_a_queue_that_only_a_stranger_consumes_is_a_problem() -> None:
    stranger = WorkerReport("celery@else", frozenset({"workflow"}), {}, SAFE)

    found = judged_workers(stranger, worker(queues=("other",)))

    assert not_ok(found) == [("Is the queue 'workflow' consumed?", Severity.PROBLEM)]


def test_queues_that_nodes_name_have_to_be_consumed_too() -> None:
    code = (CodeInUse("shop", "action", "function", None, "slow"),)

    found = judged_workers(worker(), code=code)

    assert not_ok(found) == [("Is the queue 'slow' consumed?", Severity.PROBLEM)]
    assert "nodes of shop would wait" in next(f.answer for f in found if "'slow'" in f.question)


@pytest.mark.parametrize(
    ("settings", "question", "severity"),
    [
        ({"broker_transport_options": {}}, "Does the broker deliver a message only once?", Severity.PROBLEM),
        ({"worker_prefetch_multiplier": 4}, "Does a worker take one message at a time?", Severity.WARNING),
        (
            {"broker_channel_error_retry": False},
            "Does a worker outlive a broker that is full or read-only?",
            Severity.WARNING,
        ),
        ({"accept_content": ["pickle"]}, "Does a worker read JSON messages?", Severity.PROBLEM),
        ({"task_serializer": "pickle"}, "Does a worker write JSON messages?", Severity.WARNING),
    ],
)
def test_unsafe_settings_are_told_with_the_worker_that_has_them(
    settings: dict[str, Any], question: str, severity: Severity
) -> None:
    found = judged_workers(worker(), worker("celery@odd", **settings))

    assert not_ok(found) == [(question, severity)]
    told = next(finding for finding in found if finding.question == question)
    assert "celery@odd" in told.answer
    assert told.advice


@pytest.mark.parametrize(
    ("attribute", "value", "question"),
    [
        ("acks_late", "False", "Does a worker that stops give its node back?"),
        ("reject_on_worker_lost", "True", "Is a lost process left to the engine?"),
    ],
)
def test_annotations_that_change_the_engines_task_are_a_problem(
    attribute: str, value: str, question: str
) -> None:
    changed = dataclasses.replace(worker(), tasks={TASK_NAME: {**TASK, attribute: value}})

    assert not_ok(judged_workers(changed)) == [(question, Severity.PROBLEM)]


def test_ack_emulation_is_a_matter_of_redis_only() -> None:
    on_rabbitmq = worker(broker_url="amqp://localhost//", broker_transport_options={})

    assert not_ok(judged_workers(on_rabbitmq)) == []


def test_code_that_is_not_here_is_told_with_the_workflows_that_use_it() -> None:
    known = load_node_types()
    code = (
        CodeInUse("shop", "trigger", "manual", None, None),
        CodeInUse("shop", "action", "python", "shop.not_loaded", None),
        CodeInUse("shop", "action", "teleport", None, None),
    )

    finding = judge_code(code, known)

    assert finding.severity is Severity.WARNING
    assert finding.answer == "not action/teleport (shop), shop.not_loaded (shop)"
    assert judge_code(code[:1], known).severity is Severity.OK


def test_every_module_that_cannot_be_imported_is_told() -> None:
    found = list(judge_imports(("json", "no_such_module", "no_other_module")))

    assert len(found) == 2
    assert all(finding.severity is Severity.PROBLEM for finding in found)
    assert not_ok(list(judge_imports(("json",)))) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg2://me:secret@db:5432/shop?sslmode=require&password=secret", "db:5432/shop"),
        ("me:secret@db/shop", "db/shop"),
        ("redis://:secret@cache/0", "cache/0"),
    ],
)
def test_the_place_of_a_server_is_shown_without_who_connects_to_it(url: str, shown: str) -> None:
    assert place(url) == shown
