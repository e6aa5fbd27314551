"""The alerts and the dashboard of deploy/ ask for metrics that exist, in a form that Prometheus accepts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.broker import Workers
from support.repository import ROOT
from support.workflows import line
from workflow_engine import Settings, WorkflowClient, waiting
from workflow_engine.engine.assembly import Engine
from workflow_engine.telemetry import counting
from workflow_engine.telemetry.exposition import WorkerCollector, exposition
from workflow_engine.telemetry.log_events import LogEvent

ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
TESTS_OF_ALERTS = ROOT / "deploy/prometheus/alerts_test.yaml"
DASHBOARD = ROOT / "deploy/grafana/workflow-engine.json"
MONITORING = ROOT / "docs/monitoring.md"

UNPACKED = ROOT / ".venv/promtool/usr/bin/promtool"
"""Where `.ci/run` unpacks it."""
PROMTOOL = shutil.which("promtool") or (str(UNPACKED) if UNPACKED.exists() else None)

NAME = re.compile(r"workflow_engine_[a-z_]+")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\\?\"")


def pauses(context: Any) -> Any:
    return waiting(seconds=60) if context.wake is None else None


def done() -> int:
    return 1


@pytest.fixture
def exposed(
    client: WorkflowClient,
    workers: Workers,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Run an execution, start two others, and return the metrics of the worker and of the installation."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    counts = counting.begin()
    real = Engine.assemble(settings)
    try:
        for event in LogEvent:
            assert counting.active is not None
            counting.active.event(event.value, 0)
        client.deploy(line(done, id="done"))
        client.deploy(line(pauses, id="pausing"))
        client.start("done")
        client.start("pausing")
        workers.drain()
        WorkflowClient(engine=real).start("done", queue="slow")
        worker = exposition(WorkerCollector(counts, "0.1.0"))
        yield (worker + WorkflowClient(engine=real).state_metrics.exposition()).decode()
    finally:
        counting.stop()
        real.database.dispose()


def emitted(text: str) -> dict[str, set[str]]:
    """Return the labels of each sample by its name."""
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("file", [ALERTS, TESTS_OF_ALERTS, DASHBOARD, MONITORING], ids=lambda path: path.name)
def test_every_metric_that_a_file_names_is_emitted_in_a_run(file: Path, exposed: str) -> None:
    names = set(NAME.findall(file.read_text()))

    of_histograms = {name.removesuffix("_bucket") for name in emitted(exposed) if name.endswith("_bucket")}
    assert names
    assert names <= emitted(exposed).keys() | of_histograms


def test_every_metric_that_is_emitted_is_documented(exposed: str) -> None:
    histograms = re.compile(r"_(bucket|sum|count)$")

    names = {histograms.sub("", name) if "duration" in name else name for name in emitted(exposed)}

    assert names <= set(NAME.findall(MONITORING.read_text()))


def test_the_alerts_and_the_dashboard_select_labels_and_events_that_exist(exposed: str) -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    expressions = [rule["expr"] for rule in rules]
    expressions += [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]
    ]
    known = emitted(exposed)
    for expression in expressions:
        for name, selected in re.findall(r"(workflow_engine_[a-z_]+)\{([^}]*)\}", expression):
            assert set(LABEL.findall(selected)) <= known[name] | {"instance"}, expression
        for events in re.findall(r'event(?:=~|!~|!=|=)"([^"]*)"', expression):
            assert set(events.split("|")) <= {event.value for event in LogEvent}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian: package prometheus) is not installed")
def test_prometheus_accepts_the_alerts_and_they_fire_when_they_should() -> None:
    for arguments in (["check", "rules", ALERTS.name], ["test", "rules", TESTS_OF_ALERTS.name]):
        checked = subprocess.run(
            [str(PROMTOOL), *arguments], cwd=ALERTS.parent, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian: package prometheus) is not installed")
def test_prometheus_finds_nothing_to_criticise_in_the_metrics(exposed: str) -> None:
    checked = subprocess.run(
        [str(PROMTOOL), "check", "metrics"], input=exposed, capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_each_alert_says_what_to_do() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]

    tested = TESTS_OF_ALERTS.read_text()
    for rule in rules:
        assert {"summary", "description"} <= rule["annotations"].keys()
        assert tested.count(rule["alert"]) == 2, f"{rule['alert']} is tested to fire, and not to"
