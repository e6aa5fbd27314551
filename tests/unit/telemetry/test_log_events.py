"""A log line carries its event and the ids of its execution, in fields of bounded size."""

from __future__ import annotations

import contextvars
import threading
from datetime import UTC, datetime

from workflow_engine.telemetry.log_events import (
    LONGEST_FIELD,
    LogEvent,
    current_log_context,
    log_context,
    log_fields,
)


def test_fields_hold_the_event_and_what_is_known() -> None:
    assert log_fields(LogEvent.COMMIT_REFUSED, execution_id="01a2", node_id="charge", seq=3) == {
        "event": "commit_refused",
        "execution_id": "01a2",
        "node_id": "charge",
        "seq": 3,
    }


def test_of_an_error_its_type_is_known_and_not_its_text() -> None:
    logged = log_fields(
        LogEvent.RECOVERY_FAILED, execution_id="01a2", error=ValueError("the password is hunter2")
    )

    assert logged == {"event": "recovery_failed", "execution_id": "01a2", "error_type": "ValueError"}


def test_a_field_is_a_number_or_a_short_text() -> None:
    logged = log_fields(
        LogEvent.EXECUTION_RESCUED, idle=30.5, since=datetime(2026, 11, 29, tzinfo=UTC), place="x" * 999
    )

    assert logged["idle"] == 30.5
    assert logged["since"] == "2026-11-29T00:00:00+00:00"
    assert logged["place"] == "x" * (LONGEST_FIELD - 1) + "…"


def test_lines_in_a_context_are_about_its_execution() -> None:
    with log_context("01a2", "billing", "charge", 3):
        logged = log_fields(LogEvent.COMMIT_REFUSED)

    assert logged == {
        "event": "commit_refused",
        "execution_id": "01a2",
        "workflow": "billing",
        "node_id": "charge",
        "seq": 3,
    }
    assert log_fields(LogEvent.COMMIT_REFUSED) == {"event": "commit_refused"}


def test_a_line_adds_its_own_fields_to_its_context() -> None:
    with log_context("01a2", "billing", "charge", 3):
        logged = log_fields(LogEvent.CONTEXT_DISCARDED, execution_id="01a2", seq=4)

    assert (logged["workflow"], logged["node_id"], logged["seq"]) == ("billing", "charge", 4)


def test_a_line_about_another_execution_takes_nothing_from_the_context() -> None:
    with log_context("01a2", "billing", "charge", 3):
        assert log_fields(LogEvent.LOCK_TAKEN_OVER, execution_id="77ff") == {
            "event": "lock_taken_over",
            "execution_id": "77ff",
        }


def test_contexts_nest_and_the_inner_one_counts() -> None:
    with log_context("01a2", "billing", "charge", 3):
        with log_context("01a2", "billing", "ship", 4):
            assert log_fields(LogEvent.COMMIT_REFUSED)["node_id"] == "ship"
        assert log_fields(LogEvent.COMMIT_REFUSED)["node_id"] == "charge"


def test_a_thread_shares_no_context_unless_it_is_given_a_copy() -> None:
    seen = []

    def look() -> None:
        seen.append(current_log_context().get("execution_id"))

    with log_context("01a2"):
        copy = contextvars.copy_context()
        for target in (look, lambda: copy.run(look)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()

    assert seen == [None, "01a2"]
