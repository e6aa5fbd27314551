"""Is a Redis Cluster fit to hold active executions: all of its keys served, and each of its nodes fit?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from workflow_engine.addresses.redis import RedisAddress
from workflow_engine.health.doctor.finding import Finding, Severity, first_few, ok, problem, warning
from workflow_engine.health.doctor.redis_server import REACHABLE, RedisFacts, ask_node, judge_contexts
from workflow_engine.redis.client import connect_redis, redis_errors
from workflow_engine.redis.cluster.nodes import SLOTS, key_on_each, look_at_cluster, primaries_of
from workflow_engine.redis.presence import NameOnly
from workflow_engine.settings import Settings

ORDER = (Severity.PROBLEM, Severity.WARNING, Severity.OK)


@dataclass(frozen=True)
class ClusterFacts:
    """What the nodes of a cluster report."""

    nodes: Mapping[str, RedisFacts]
    """The primaries, by their places."""
    slots_served: int
    without_replica: Sequence[str]
    """The places of the primaries that no other node can take the place of."""


def ask_cluster(settings: Settings, address: RedisAddress, key_prefix: str) -> ClusterFacts:
    """Ask each primary, and write a key on each that expires at once. Raises `CacheUnavailable`."""
    client = connect_redis(settings, address, introduce=NameOnly())
    try:
        with redis_errors():
            look = look_at_cluster(client)
            keys = key_on_each(client, f"{key_prefix}health")
            nodes = primaries_of(client)
        facts = {place: ask_node(node, key) for (place, key), node in zip(keys.items(), nodes, strict=True)}
        return ClusterFacts(facts, look.slots_served, look.without_replica)
    finally:
        client.close()


def judge_cluster(facts: ClusterFacts) -> Iterator[Finding]:
    """Yield a finding for each question about a cluster that has the contexts.

    What is asked of each node is answered once, by the first of the nodes that are worst.
    """
    slowest = max(node.round_trip_ms for node in facts.nodes.values())
    yield ok(REACHABLE, f"yes, {len(facts.nodes)} primaries, round trip at most {slowest:.1f} ms")
    yield _coverage(facts.slots_served)
    yield _replicas(facts.without_replica)
    found: dict[str, list[tuple[str, Finding]]] = {}
    for place, node in facts.nodes.items():
        for finding in judge_contexts(replace(node, mode=None)):
            found.setdefault(finding.question, []).append((place, finding))
    for question, findings in found.items():
        if question == REACHABLE:
            continue
        place, worst = min(findings, key=lambda each: ORDER.index(each[1].severity))
        is_ok = worst.severity is Severity.OK
        yield worst if is_ok else replace(worst, answer=f"not on {place}: {worst.answer}")


def _coverage(slots_served: int) -> Finding:
    question = "Are all of its keys served?"
    if slots_served == SLOTS:
        return ok(question, "yes")
    return problem(
        question,
        f"no, {SLOTS - slots_served:,} of {SLOTS:,} slots have no node; executions there wait",
        "start the nodes that are away, or assign their slots: redis-cli --cluster fix",
    )


def _replicas(without_replica: Sequence[str]) -> Finding:
    question = "Does every primary have a replica?"
    if not without_replica:
        return ok(question, "yes")
    return warning(
        question,
        f"not {first_few(without_replica)}",
        "add replicas; without one, the executions on that node wait until it is back",
    )
