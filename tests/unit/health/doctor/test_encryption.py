"""The doctor reports encrypted connections whose server is not verified."""

from __future__ import annotations

import pytest

from workflow_engine.addresses.redis import RedisAddress
from workflow_engine.health.doctor import Severity
from workflow_engine.health.doctor.encryption import judge_postgres_encryption, judge_redis_encryption


@pytest.mark.parametrize(
    ("url", "severity", "words"),
    [
        ("redis://cache.example.com/0", Severity.OK, "plain text"),
        ("redis://127.0.0.1/0", Severity.OK, "does not leave this machine"),
        ("unix:///run/redis.sock", Severity.OK, "does not leave this machine"),
        ("rediss://cache.example.com/0", Severity.OK, "yes"),
        ("rediss://cache.example.com/0?ssl_cert_reqs=none", Severity.WARNING, "any server is accepted"),
        ("rediss://cache.example.com/0?ssl_check_hostname=false", Severity.WARNING, "any server is accepted"),
    ],
)
def test_a_redis_that_is_not_verified_is_reported(url: str, severity: Severity, words: str) -> None:
    finding = judge_redis_encryption(RedisAddress.parse(url), "WORKFLOW_ENGINE_REDIS_URL")

    assert finding.severity is severity
    assert words in finding.answer


@pytest.mark.parametrize(
    ("url", "severity", "words"),
    [
        ("postgresql://db.example.com/shop", Severity.OK, "sslmode=prefer"),
        ("postgresql://db.example.com/shop?sslmode=disable", Severity.OK, "plain text"),
        ("postgresql://localhost/shop", Severity.OK, "does not leave this machine"),
        ("postgresql:///shop?host=/run/postgresql", Severity.OK, "does not leave this machine"),
        ("postgresql://db.example.com/shop?sslmode=verify-full", Severity.OK, "yes"),
        ("postgresql://db.example.com/shop?sslmode=require", Severity.WARNING, "any server is accepted"),
    ],
)
def test_a_postgres_that_is_not_verified_is_reported(url: str, severity: Severity, words: str) -> None:
    finding = judge_postgres_encryption(url)

    assert finding.severity is severity
    assert words in finding.answer
