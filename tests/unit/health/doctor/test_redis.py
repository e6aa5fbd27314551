"""The doctor reports what is wrong with a Redis, and nothing about a good one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from support.findings import advice, not_ok
from workflow_engine.health.doctor import Severity
from workflow_engine.health.doctor.redis_server import (
    RedisFacts,
    judge_contexts,
    judge_lock_server,
    judge_redis,
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


def test_a_good_redis_has_nothing_to_complain_about() -> None:
    assert not_ok(list(judge_redis(REDIS))) == []


@pytest.mark.parametrize(
    ("fact", "question", "severity"),
    [
        ({"version": "6.0.16"}, "Is its version supported?", Severity.PROBLEM),
        ({"mode": "cluster"}, "Is it writable?", Severity.PROBLEM),
        ({"role": "slave"}, "Is it writable?", Severity.PROBLEM),
        ({"policy": "allkeys-lru"}, "Does it keep what it stores?", Severity.PROBLEM),
        ({"used_memory": 85}, "Does it have memory left?", Severity.WARNING),
        ({"has_log": False}, "Does its data survive a restart?", Severity.WARNING),
        ({"refusal": "NOPERM this user"}, "Is it writable?", Severity.PROBLEM),
        ({"policy": None}, "Does it report how it keeps data?", Severity.WARNING),
    ],
)
def test_what_is_wrong_with_redis_is_found_and_nothing_else(
    fact: dict[str, Any], question: str, severity: Severity
) -> None:
    findings = list(judge_redis(dataclasses.replace(REDIS, **fact)))

    assert not_ok(findings) == [(question, severity)]


def test_a_redis_that_does_not_tell_which_workers_are_alive_is_warned_about_where_the_contexts_are() -> None:
    assert not_ok(list(judge_contexts(REDIS))) == []
    silent = dataclasses.replace(REDIS, shows_presence=False)

    assert not_ok(list(judge_redis(silent))) == []
    assert not_ok(list(judge_contexts(silent))) == [
        ("Does it tell which workers are alive?", Severity.WARNING)
    ]
    (only,) = advice(list(judge_contexts(silent)), Severity.WARNING)
    assert "allow its user +client and +info" in only


def test_a_lock_server_need_not_survive_a_restart_but_has_to_stay_down_until_its_locks_have_expired() -> None:
    findings = list(judge_lock_server(dataclasses.replace(REDIS, has_log=False), lock_expiry=30))

    assert not_ok(findings) == []
    assert "30 s after it stopped" in next(f.answer for f in findings if f.question == "May it be restarted?")
    evicting = list(judge_lock_server(dataclasses.replace(REDIS, policy="allkeys-lru"), lock_expiry=30))
    assert not_ok(evicting) == [("Does it keep what it stores?", Severity.PROBLEM)]


def test_the_oldest_supported_version_is_accepted() -> None:
    assert not_ok(list(judge_redis(dataclasses.replace(REDIS, version="6.2.0")))) == []


def test_advice_against_eviction_for_a_cache_names_its_consequence() -> None:
    (only,) = advice(list(judge_redis(dataclasses.replace(REDIS, policy="allkeys-lru"))), Severity.PROBLEM)

    assert "give the engine a Redis of its own" in only
    assert "whose writes would fail" in only
