"""An option that redis-py's client for clusters would ignore is refused, since it may verify the server."""

from __future__ import annotations

from typing import Any

import pytest

from workflow_engine import Settings
from workflow_engine.errors import SettingsInvalid
from workflow_engine.redis import client
from workflow_engine.redis.client import connect_redis


def test_an_option_that_would_be_ignored_is_refused() -> None:
    settings = Settings(redis_url="redis+cluster://cache?health_check_interval=20")

    with pytest.raises(SettingsInvalid, match="ignores health_check_interval"):
        connect_redis(settings)


def test_a_release_of_redis_py_that_cannot_verify_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allowed: Any = set(client.REDIS_ALLOWED_KEYS) - {"ssl_check_hostname"}
    monkeypatch.setattr(client, "REDIS_ALLOWED_KEYS", allowed)

    with pytest.raises(SettingsInvalid, match="ignores ssl_check_hostname; install a newer one"):
        connect_redis(Settings(redis_url="rediss+cluster://cache"))
    assert connect_redis(Settings(redis_url="redis+cluster://cache")) is not None
