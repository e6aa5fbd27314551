"""The doctor reports what is wrong with a Postgres, and nothing about a good one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from support.findings import not_ok
from workflow_engine.health.doctor import Severity
from workflow_engine.health.doctor.postgres import PostgresFacts, StandingLine, judge_postgres, place

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


def test_a_good_postgres_has_nothing_to_complain_about() -> None:
    assert not_ok(list(judge_postgres(POSTGRES))) == []


def test_nodes_that_wait_for_code_are_reported() -> None:
    waiting = dataclasses.replace(POSTGRES, waiting_for_code=(("action/shop.charge", 1200), ("shop.mail", 1)))

    (found,) = [each for each in judge_postgres(waiting) if each.severity is not Severity.OK]
    assert found.answer == "no, some wait for it: 1,200 for action/shop.charge, 1 for shop.mail"


def test_lines_for_limits_that_do_not_move_are_reported_with_the_command_that_moves_them() -> None:
    lines = (StandingLine("tenant:7", 1200, 9000.0, False), StandingLine("bank", 3, 60.0, True))

    standing = dataclasses.replace(POSTGRES, standing_lines=lines)

    (found,) = [each for each in judge_postgres(standing) if each.severity is not Severity.OK]
    assert found.answer == (
        "not all, there wait 1,200 for 'tenant:7', the first for 2.5 h, 3 for 'bank', which is closed"
    )
    assert "workflow-engine limits set tenant:7 --concurrency N" in found.advice


@pytest.mark.parametrize(
    ("fact", "question", "severity"),
    [
        ({"version_number": 130_012, "version": "13.12"}, "Is its version supported?", Severity.PROBLEM),
        ({"is_read_only": True}, "Is it writable?", Severity.PROBLEM),
        ({"revision": None}, "Are the migrations current?", Severity.PROBLEM),
        ({"revision": "0000"}, "Are the migrations current?", Severity.PROBLEM),
        ({"synchronous_commit": "off"}, "Are its commits durable?", Severity.WARNING),
        ({"fsync": "off"}, "Are its commits durable?", Severity.WARNING),
        ({"full_page_writes": "off"}, "Are its commits durable?", Severity.WARNING),
        (
            {"standbys": 2, "asynchronous_standbys": 1},
            "Do its commits survive a failover?",
            Severity.WARNING,
        ),
        (
            {"standbys": 1, "synchronous_commit": "local"},
            "Do its commits survive a failover?",
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


def test_the_oldest_supported_version_is_accepted() -> None:
    assert not_ok(list(judge_postgres(dataclasses.replace(POSTGRES, version_number=140_000)))) == []


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
