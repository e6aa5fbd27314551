"""A Redis Cluster of three nodes in place of the one Redis, empty for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.key_leak_checker import keys_that_never_expire
from support.redis_cluster import EmbeddedCluster
from workflow_engine import Settings


@pytest.fixture(scope="module")
def cluster_without_replicas() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(cluster_without_replicas: EmbeddedCluster) -> Iterator[EmbeddedCluster]:
    """Return a whole and empty cluster; fail a test that leaves a key without expiry there."""
    cluster = cluster_without_replicas
    cluster.restart()
    cluster.flush()
    yield cluster
    leaked: list[str] = []
    for node in cluster.primaries():
        with cluster.client(node) as client:
            leaked += keys_that_never_expire(client)
    assert leaked == []


@pytest.fixture
def settings(settings: Settings, cluster: EmbeddedCluster) -> Settings:
    """Return the settings of contexts on the cluster and of a broker beside it."""
    changed = {**settings.model_dump(), "redis_url": cluster.url, "broker_url": settings.redis_url}
    return Settings.model_validate(changed)
