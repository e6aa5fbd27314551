"""A command that needs more than the smallest installation says in one line how to get it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from workflow_engine.cli import main
from workflow_engine.settings import get_settings


@pytest.fixture(autouse=True)
def _without_flower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "flower", None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", ["demo", "dev"])
def test_without_flower_it_names_the_extra_before_anything_is_started(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [command])

    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: Flower is not installed; run `pip install 'celery-workflow-engine[demo]'`")
    assert list(tmp_path.iterdir()) == []


def test_dev_names_the_option_that_does_without_flower(tmp_path: Path) -> None:
    (tmp_path / "of-the-team").touch()

    assert "--no-flower" in CliRunner().invoke(main, ["dev"]).stderr
    went_on = CliRunner().invoke(main, ["dev", "--no-flower", "--folder", "."])
    assert "name another folder" in went_on.stderr


def test_a_missing_extra_has_a_name_for_programs() -> None:
    result = CliRunner().invoke(main, ["demo", "--json"])

    assert json.loads(result.stdout)["error"]["type"] == "ExtraMissing"


def test_without_the_client_of_prometheus_metrics_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    result = CliRunner().invoke(main, ["metrics"])

    assert result.exit_code == 1
    assert "run `pip install 'celery-workflow-engine[metrics]'`" in result.stderr


def test_without_opentelemetry_a_process_that_is_to_trace_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    monkeypatch.setenv("WORKFLOW_ENGINE_TRACING", "true")
    get_settings.cache_clear()

    result = CliRunner().invoke(main, ["list"])
    get_settings.cache_clear()

    assert result.exit_code == 1
    assert "run `pip install 'celery-workflow-engine[otel]'`" in result.stderr
