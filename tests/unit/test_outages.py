"""An outage is logged once when it begins and once when it ends, by one part of the process for all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from workflow_engine import outages as outages_module
from workflow_engine.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    DatabaseOutdated,
    DatabaseUnavailable,
    Requeue,
    WorkflowEngineError,
)
from workflow_engine.outages import BackOff, Outages, retry_unavailable


@pytest.fixture
def outages() -> Outages:
    return Outages()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the lines logged since the last call, without their durations."""
    caplog.set_level(logging.INFO, "workflow_engine")

    def lines() -> list[str]:
        logged = [record.getMessage().partition(" after ")[0] for record in caplog.records]
        caplog.clear()
        return logged

    return lines


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages_module.time, "sleep", lambda seconds: None)


def fails(outages: Outages, error: WorkflowEngineError, what: str = "work") -> None:
    with pytest.raises(type(error)), outages.watch(what):
        raise error


def succeeds(outages: Outages, *services: type[WorkflowEngineError]) -> None:
    with outages.watch("work"):
        for service in services:
            outages.record_reply(service)


def test_many_failures_are_one_outage(outages: Outages, said: Callable[[], list[str]]) -> None:
    for _ in range(5):
        fails(outages, DatabaseUnavailable("Postgres does not respond"))
    succeeds(outages, DatabaseUnavailable)
    succeeds(outages, DatabaseUnavailable)

    assert said() == ["Postgres does not respond; waiting to work", "Postgres is available again"]


def test_the_next_outage_is_logged_as_well(outages: Outages, said: Callable[[], list[str]]) -> None:
    fails(outages, CacheUnavailable("Redis is away"))
    succeeds(outages, CacheUnavailable)
    fails(outages, CacheUnavailable("Redis is away again"))

    assert said()[1:] == ["Redis is available again", "Redis is away again; waiting to work"]


def test_each_service_fails_and_recovers_on_its_own(outages: Outages, said: Callable[[], list[str]]) -> None:
    fails(outages, CacheUnavailable("Redis is away"))
    fails(outages, BrokerUnavailable("the broker is away"))
    succeeds(outages, CacheUnavailable)

    assert said()[2:] == ["Redis is available again"]


def test_a_message_requeued_for_an_outage_reports_it(outages: Outages, said: Callable[[], list[str]]) -> None:
    with pytest.raises(Requeue), outages.watch("run nodes"):
        raise Requeue("see there") from DatabaseOutdated("run `workflow-engine db upgrade`")

    assert said() == ["run `workflow-engine db upgrade`; waiting to run nodes"]


def test_a_message_requeued_for_another_reason_is_no_outage(
    outages: Outages, said: Callable[[], list[str]]
) -> None:
    fails(outages, Requeue("the node waits for a newer worker"))

    assert said() == []


def test_success_without_a_reply_of_the_service_ends_no_outage(
    outages: Outages, said: Callable[[], list[str]]
) -> None:
    fails(outages, BrokerUnavailable("the broker is away"))
    succeeds(outages, DatabaseUnavailable)

    assert len(said()) == 1


def test_replies_amid_failure_end_no_outage(outages: Outages, said: Callable[[], list[str]]) -> None:
    def read_and_write() -> None:
        with outages.watch("work"):
            outages.record_reply(DatabaseUnavailable)
            raise DatabaseUnavailable("could not extend file")

    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            read_and_write()

    assert len(said()) == 1


def test_a_failure_that_was_handled_inside_an_attempt_is_not_ended_by_its_success(
    outages: Outages, said: Callable[[], list[str]]
) -> None:
    with outages.watch("run nodes"):
        outages.record_reply(CacheUnavailable)
        fails(outages, CacheUnavailable("Redis is away"))

    assert said() == ["Redis is away; waiting to work"]


def test_an_outage_ends_when_every_part_has_recovered(
    outages: Outages, said: Callable[[], list[str]]
) -> None:
    go_on = threading.Event()

    def renews_locks() -> None:
        fails(outages, CacheUnavailable("Redis is away"))
        failed.set()
        go_on.wait(30)
        succeeds(outages, CacheUnavailable)

    failed = threading.Event()
    other = threading.Thread(target=renews_locks)
    other.start()
    failed.wait(30)
    fails(outages, CacheUnavailable("Redis is away"))
    succeeds(outages, CacheUnavailable)
    assert len(said()) == 1

    go_on.set()
    other.join()

    assert said() == ["Redis is available again"]


def test_a_part_that_is_gone_keeps_no_outage_open(outages: Outages, said: Callable[[], list[str]]) -> None:
    request = threading.Thread(target=fails, args=(outages, CacheUnavailable("Redis is away")))
    request.start()
    request.join()
    succeeds(outages, CacheUnavailable)

    assert said()[1:] == ["Redis is available again"]


@pytest.mark.usefixtures("no_pauses")
def test_a_retried_call_logs_once_what_waits(said: Callable[[], list[str]]) -> None:
    from workflow_engine.outages import outages

    outages.reset()
    attempts = iter([DatabaseUnavailable("Postgres is away")] * 4)

    def commit() -> str:
        for error in attempts:
            raise error
        outages.record_reply(DatabaseUnavailable)
        return "committed"

    assert retry_unavailable(commit, 60, "commit node charge") == "committed"
    assert said() == ["Postgres is away; waiting to commit node charge", "Postgres is available again"]


def test_pauses_double_up_to_a_ceiling_and_are_spread() -> None:
    back_off = BackOff(first=1, longest=8)
    pauses = [back_off.pause() for _ in range(6)]
    back_off.reset()

    for pause, expected in zip([*pauses, back_off.pause()], [1, 2, 4, 8, 8, 8, 1], strict=True):
        assert 0.7 * expected <= pause <= 1.3 * expected
    assert len(set(pauses)) == 6
