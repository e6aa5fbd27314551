"""A worker that loses one of its threads exits, and logs why."""

from __future__ import annotations

import pytest
from celery.worker import state

from workflow_engine.worker.steps.preparation import end_worker, start_vital_thread


@pytest.fixture(autouse=True)
def _a_worker_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_stop", None)


def test_a_thread_that_fails_ends_its_worker(caplog: pytest.LogCaptureFixture) -> None:
    start_vital_thread("timekeeper", lambda: {}["round"]).join(30)

    assert state.should_stop == 1
    assert caplog.messages[-1] == "This worker ends: its thread 'timekeeper' failed: KeyError: 'round'"
    assert "Traceback" in caplog.text


def test_a_thread_that_has_done_its_work_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    start_vital_thread("timekeeper", lambda: None).join(30)

    assert state.should_stop is None
    assert caplog.messages == []


def test_a_worker_that_already_ends_keeps_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "should_stop", 0)

    end_worker("its thread 'timekeeper' failed")

    assert state.should_stop == 0
