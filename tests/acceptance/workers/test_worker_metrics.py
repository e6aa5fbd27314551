"""A worker serves what its processes have counted, and no count falls when one of them dies."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.fleet import Fleet
from support.polling import poll
from support.worker_processes import Worker
from workflow_engine import WorkflowBuilder

Counts = Mapping[tuple[str, ...], float]
"""The value of each sample by its name and the values of its labels, in the order of their names."""

HOP = ("workflow_engine_hops_total", "only", "COMPLETED", "sound")
END = ("workflow_engine_executions_ended_total", "COMPLETED", "sound")

SPAWNING = """
from workflow_engine.worker.app import app

app.conf.worker_pool_start_method = "spawn"
"""


@pytest.fixture
def port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def scraped(port: int) -> Counts:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def folders(fleet: Fleet) -> list[Path]:
    return list(fleet.folder.glob("workflow-engine-counts-*"))


def deploy(fleet: Fleet) -> None:
    flow = WorkflowBuilder("sound")
    flow.trigger("begin") >> flow.python("only", "test.echo", arguments={"value": 1})
    fleet.client.deploy(flow.build())
    flow = WorkflowBuilder("deadly")
    flow.trigger("begin") >> flow.python("kill", "test.kills_its_process")
    fleet.client.deploy(flow.build())


def add_worker(fleet: Fleet, name: str, port: int, **options: object) -> Worker:
    return fleet.add_worker(name, WORKFLOW_ENGINE_METRICS_PORT=str(port), **options)  # type: ignore[arg-type]


def test_counts_outlive_the_processes_that_died_with_their_nodes(own_fleet: Fleet, port: int) -> None:
    fleet = own_fleet
    worker = add_worker(fleet, "one", port)
    worker.ready()
    deploy(fleet)
    for _ in range(20):
        fleet.completed(fleet.start("sound"))
    poll(lambda: scraped(port).get(END) == 20, "all ends are counted")
    before = scraped(port)

    assert before[HOP] == 20
    assert before["workflow_engine_node_duration_seconds_count", "only", "sound"] == 20
    assert before["workflow_engine_events_total", "process_lost"] == 0, "zero is known from the start"

    fleet.failed(fleet.start("deadly"))
    failed = ("workflow_engine_hops_total", "kill", "FAILED", "deadly")
    poll(lambda: scraped(port).get(failed) == 1, "the last hop is counted")
    after = scraped(port)
    for _ in range(5):
        fleet.completed(fleet.start("sound"))

    assert {key: value for key, value in before.items() if after.get(key, -1) < value} == {}
    assert after["workflow_engine_events_total", "process_lost"] == 4
    poll(lambda: scraped(port)[HOP] == 25, "new processes count on")
    assert len(folders(fleet)) == 1
    worker.terminate()
    assert not folders(fleet)


def test_a_process_that_is_spawned_counts_as_a_forked_one_does(own_fleet: Fleet, port: int) -> None:
    fleet = own_fleet
    (fleet.folder / "spawning.py").write_text(SPAWNING)
    add_worker(fleet, "one", port, app="spawning", concurrency=1).ready()
    deploy(fleet)

    fleet.completed(fleet.start("sound"))

    poll(lambda: scraped(port).get(HOP) == 1, "the hop is counted")


def test_a_port_that_is_taken_costs_the_metrics_and_not_the_worker(own_fleet: Fleet) -> None:
    fleet = own_fleet
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        worker = add_worker(fleet, "one", listening.getsockname()[1], concurrency=1)
        worker.ready()
    deploy(fleet)

    fleet.completed(fleet.start("sound"))

    assert worker.lines("The metrics of this worker are not served", "Address already in use")


def test_a_worker_without_the_setting_counts_nothing(own_fleet: Fleet) -> None:
    own_fleet.add_worker("one", concurrency=1).ready()
    deploy(own_fleet)

    own_fleet.completed(own_fleet.start("sound"))

    assert not folders(own_fleet)
