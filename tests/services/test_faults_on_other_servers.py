"""The faults lose nothing and commit nothing twice on a Redis Cluster, behind Sentinel and over RabbitMQ."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from faults.catalogue import FAILED_OVER, FAULTS
from faults.fault import SHORT, Fault
from faults.report import plain
from faults.servers import Servers
from faults.topologies.cluster import BesideACluster
from faults.topologies.rabbitmq import OverRabbit
from faults.topologies.sentinel import BehindSentinels
from faults.topologies.topology import Topology
from faults.verdict import judge
from workflow_engine.embedded.rabbitmq import rabbitmq_programs

pytestmark = pytest.mark.services

TOPOLOGIES: dict[str, type[Topology]] = {
    "cluster": BesideACluster,
    "sentinel": BehindSentinels,
    "rabbitmq": OverRabbit,
}

IN_REDIS = {"messages-doubled", "messages-dropped", "messages-shuffled", "long-queue"}
"""Faults of messages in a Redis, whose transport is patched for them, or whose queues recovery looks into."""

CASES = [
    (name, fault)
    for name in TOPOLOGIES
    for fault in (FAILED_OVER, *FAULTS)
    if name != "rabbitmq" or fault.name not in IN_REDIS
]


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    if request.param == "rabbitmq" and rabbitmq_programs() is None:
        if os.environ.get("CI", "") not in ("", "0", "false"):
            pytest.fail("RabbitMQ must not be missing in CI: apt install rabbitmq-server", pytrace=False)
        pytest.skip("this machine has no RabbitMQ: apt install rabbitmq-server")
    with Servers.started(TOPOLOGIES[request.param]()) as servers:
        yield servers


@pytest.mark.parametrize(
    ("servers", "fault"), CASES, ids=[f"{name}-{fault.name}" for name, fault in CASES], indirect=["servers"]
)
def test_nothing_is_lost_and_nothing_is_committed_twice(
    fault: Fault, servers: Servers, request: pytest.FixtureRequest
) -> None:
    verdict = judge(fault, SHORT, servers)
    request.node.user_properties.append(("measured", plain(verdict)))

    assert not verdict.problems, "\n".join(verdict.problems)
