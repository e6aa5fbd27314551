"""Lines of JSON name the task they are about, and only Celery's own handlers write them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, signals
from celery.utils.log import ColorFormatter

from workflow_engine.settings import get_settings
from workflow_engine.worker.log_format import CeleryJsonFormatter

VARIABLE = "WORKFLOW_ENGINE_LOG_FORMAT"


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("logging", set_as_current=False, broker="memory://")
    yield made
    made.close()


def written(name: str, message: str, *arguments: Any, **extra: Any) -> dict[str, Any]:
    record = logging.getLogger(name).makeRecord(
        name, logging.INFO, __file__, 1, message, arguments, None, extra=extra
    )
    line: dict[str, Any] = json.loads(CeleryJsonFormatter().format(record))
    return line


def logger_after_setup(handler: logging.Handler) -> logging.Logger:
    """Return a logger with this handler, after Celery's signal that it is set up."""
    logger = logging.Logger("root")
    logger.addHandler(handler)
    signals.after_setup_logger.send(None, logger=logger)
    return logger


def celerys_own() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(ColorFormatter("%(message)s"))
    return handler


def test_a_line_from_inside_a_task_names_it(app: Celery) -> None:
    @app.task(name="shop.pay", shared=False)
    def pay() -> dict[str, Any]:
        return written("shop", "the bank is slow")

    line = pay.apply(task_id="4e5f").get()

    assert (line["task_id"], line["task_name"]) == ("4e5f", "shop.pay")


def test_a_line_that_names_a_task_itself_keeps_that_one(app: Celery) -> None:
    @app.task(name="shop.look", shared=False)
    def look() -> dict[str, Any]:
        return written("shop", "lost", task_id="0000")

    assert look.apply(task_id="4e5f").get()["task_id"] == "0000"


def test_celery_s_lines_about_a_task_name_it_and_hold_no_argument_beside_their_text() -> None:
    about = {"id": "4e5f", "name": "shop.pay", "args": "('hunter2',)", "kwargs": "{'password': 'hunter2'}"}

    line = written("celery.worker.strategy", "Task %(name)s[%(id)s] received", about, data=about)

    assert line["message"] == "Task shop.pay[4e5f] received"
    assert (line["task_id"], line["task_name"]) == ("4e5f", "shop.pay")
    assert "hunter2" not in json.dumps(line)


def test_a_line_outside_of_any_task_names_none() -> None:
    assert "task_id" not in written("celery.worker", "ready")


def test_celery_s_own_handlers_write_json_if_the_setting_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "json")

    [handler] = logger_after_setup(celerys_own()).handlers

    assert isinstance(handler.formatter, CeleryJsonFormatter)


@pytest.mark.parametrize("value", [None, "text"])
def test_nothing_is_changed_without_the_setting(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    [handler] = logger_after_setup(celerys_own()).handlers

    assert type(handler.formatter) is ColorFormatter


def test_a_handler_of_a_team_s_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "json")
    teams = logging.StreamHandler()
    teams.setFormatter(formatter := logging.Formatter("team: %(message)s"))

    logger_after_setup(teams)

    assert teams.formatter is formatter


def test_a_team_that_sets_up_logging_by_celery_s_signal_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "json")

    def set_up(**_: Any) -> None: ...

    signals.setup_logging.connect(set_up)
    try:
        [handler] = logger_after_setup(celerys_own()).handlers
    finally:
        signals.setup_logging.disconnect(set_up)

    assert type(handler.formatter) is ColorFormatter


def test_a_program_that_sets_up_its_log_first_can_still_set_the_engine_s_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    get_settings.cache_clear()
    logger_after_setup(celerys_own())
    monkeypatch.setenv("WORKFLOW_ENGINE_QUEUE", "set later")

    assert get_settings().queue == "set later"
    get_settings.cache_clear()


def test_a_setting_that_is_wrong_changes_no_formatter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "xml")

    [handler] = logger_after_setup(celerys_own()).handlers

    assert type(handler.formatter) is ColorFormatter
