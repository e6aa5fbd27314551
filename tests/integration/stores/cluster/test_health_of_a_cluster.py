"""Readiness and doctor judge a Redis Cluster as a whole, by the worst of its nodes."""

from __future__ import annotations

from support.redis_cluster import EmbeddedCluster
from workflow_engine import Settings
from workflow_engine.health.doctor import Finding, Severity, examine
from workflow_engine.health.readiness import ask_servers


def findings(settings: Settings) -> dict[str, Finding]:
    (found,) = (group for topic, group in examine(settings).items() if topic.startswith("Redis Cluster"))
    return {finding.question: finding for finding in found}


def test_a_whole_cluster_is_fit_but_for_its_missing_replicas(settings: Settings) -> None:
    found = findings(settings)

    assert found["Can it be reached?"].answer.startswith("yes, 3 primaries")
    assert found["Are all of its keys served?"].severity is Severity.OK
    assert found["Is it writable?"].severity is Severity.OK
    assert found["Does it tell which workers are alive?"].severity is Severity.OK
    replicas = found["Does every primary have a replica?"]
    assert (replicas.severity, replicas.answer.count("127.0.0.1")) == (Severity.WARNING, 3)


def test_one_node_that_evicts_is_named(settings: Settings, cluster: EmbeddedCluster) -> None:
    node = cluster.primaries()[1]
    cluster.ask(node, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        found = findings(settings)["Does it keep what it stores?"]
    finally:
        cluster.ask(node, "CONFIG", "SET", "maxmemory-policy", "noeviction")

    assert found.severity is Severity.PROBLEM
    assert found.answer.startswith(f"not on 127.0.0.1:{node.port}: no, maxmemory-policy is allkeys-lru")


def test_a_node_of_a_cluster_is_no_single_redis(settings: Settings, cluster: EmbeddedCluster) -> None:
    single = cluster.url.partition(";")[0].replace("redis+cluster", "redis")
    found = examine(settings.model_copy(update={"redis_url": single}))
    (of_redis,) = (group for topic, group in found.items() if topic.startswith(f"Redis at {single[-15:]}"))

    refused = next(finding for finding in of_redis if finding.question == "Is it writable?")
    assert refused.severity is Severity.PROBLEM
    assert "redis+cluster://" in refused.advice


def test_a_cluster_is_ready_if_each_node_can_be_written_to(
    settings: Settings, cluster: EmbeddedCluster
) -> None:
    place = settings.redis_address.place
    assert dict(ask_servers(settings, 5))[f"Redis at {place}"] == "writable"

    cluster.ask(cluster.primaries()[2], "CONFIG", "SET", "maxmemory", 1)
    try:
        assert isinstance(dict(ask_servers(settings, 5))[f"Redis at {place}"], Exception)
    finally:
        cluster.ask(cluster.primaries()[2], "CONFIG", "SET", "maxmemory", 0)


def test_a_cluster_with_keys_that_no_node_serves_is_not_ready(
    settings: Settings, cluster: EmbeddedCluster
) -> None:
    cluster.kill(cluster.primaries()[0])

    result = dict(ask_servers(settings, 10))[f"Redis at {settings.redis_address.place}"]

    assert isinstance(result, Exception)
