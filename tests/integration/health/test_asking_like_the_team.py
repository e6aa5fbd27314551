"""The doctor connects as the team's programs do; a server that reports little does not count as away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker

from workflow_engine import Settings
from workflow_engine.broker.inspection import ask_workers
from workflow_engine.health.doctor import Finding, Severity, examine
from workflow_engine.health.readiness import ask_servers

Options = dict[str, Any]


@contextmanager
def team_worker(app: Celery) -> Iterator[None]:
    """Run a worker of a team's app in a thread; it takes no messages of the engine."""
    with start_worker(
        app, perform_ping_check=False, shutdown_timeout=20, queues=["celery"], hostname="team@here"
    ):
        yield


@pytest.fixture
def team_app(settings: Settings) -> Callable[[Options], Celery]:
    def make(options: Options) -> Celery:
        app = Celery("team", broker=settings.redis_url, set_as_current=False)
        app.conf.update(broker_transport_options=options, worker_hijack_root_logger=False)
        return app

    return make


@pytest.mark.parametrize(
    "options",
    [
        {"global_keyprefix": "team:"},
        {"priority_steps": [1, 4, 7], "sep": "#", "queue_order_strategy": "priority"},
    ],
)
def test_workers_of_an_app_with_keys_of_its_own_are_found_through_that_app(
    options: Options, settings: Settings, team_app: Callable[[Options], Celery], redis_client: redis.Redis
) -> None:
    app = team_app(options)

    with team_worker(app):
        found = [report.name for report in ask_workers(settings, 1, app)]

    assert found == ["team@here"]
    redis_client.flushdb()


def found_at(topic: str, findings: dict[str, list[Finding]]) -> dict[str, Finding]:
    return {f.question: f for name, group in findings.items() if name.startswith(topic) for f in group}


@pytest.fixture
def restricted(settings: Settings, redis_client: redis.Redis) -> Iterator[Callable[..., Settings]]:
    """Return a factory of Redis users with fewer permissions; it returns settings for them."""

    def make(*rules: str) -> Settings:
        redis_client.execute_command("ACL", "SETUSER", "shop", "on", ">word", "~*", "&*", "+@all", *rules)
        place = settings.redis_url.rpartition("@")[2]
        return settings.model_copy(update={"redis_url": f"redis://shop:word@{place}"})

    yield make
    redis_client.execute_command("ACL", "DELUSER", "shop")


@pytest.mark.parametrize(
    "rules", [["-info", "-config"], ["-@dangerous"], ["-@admin", "-@dangerous", "-ping"]]
)
def test_a_redis_that_forbids_info_is_not_taken_for_one_that_is_away(
    rules: list[str], restricted: Callable[..., Settings]
) -> None:
    found = found_at("Redis", examine(restricted(*rules)))

    assert [f.question for f in found.values() if f.severity is Severity.PROBLEM] == []
    assert found["Can it be reached?"].severity is Severity.OK
    assert found["Is it writable?"].severity is Severity.OK
    assert found["Is its version supported?"].severity is Severity.OK
    assert "+info" in found["Does it report how it keeps data?"].advice


def test_a_redis_that_forbids_what_the_engine_does_is_a_problem(restricted: Callable[..., Settings]) -> None:
    found = found_at("Redis", examine(restricted("-@write")))

    assert found["Can it be reached?"].severity is Severity.OK
    assert found["Is it writable?"].severity is Severity.PROBLEM
    assert "no permissions to run the 'set' command" in found["Is it writable?"].answer


def test_readiness_and_doctor_look_at_the_broker_of_the_app_that_they_are_given(
    settings: Settings, redis_url: str, redis_database_numbers: Iterator[int]
) -> None:
    elsewhere = redis_url.rpartition("/")[0] + f"/{next(redis_database_numbers)}"
    app = Celery("team", broker=elsewhere, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": "team:"}

    found = examine(settings, app=app)
    ready = dict(ask_servers(settings, 5, app))

    place = elsewhere.rpartition("@")[2]
    assert ready[f"Broker at {place.partition('/')[0]}"] == "writable"
    assert found_at(f"Redis (broker) at {place}", found)["Is it writable?"].severity is Severity.OK
    assert found_at("Workers", found)["Is there a worker?"].severity is Severity.PROBLEM
