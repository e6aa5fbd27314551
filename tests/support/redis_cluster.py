"""A Redis Cluster of three primaries, with replicas or without, whose nodes tests kill and flush."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any, Self

import redis
from redis.crc import key_slot

from support.polling import poll
from workflow_engine.embedded import EmbeddedRedis

PRIMARIES = 3
SLOTS = 16_384

NODE_TIMEOUT = 1_000
"""Milliseconds without a reply after which the other nodes let a replica take the place of a primary."""


class ClusterNode(EmbeddedRedis):
    """One node; all nodes of a cluster have the same password."""

    def __init__(self, password: str) -> None:
        super().__init__()
        self._of_all = password

    def _create_data(self) -> None:
        self._password = self._of_all
        super()._create_data()

    def _command(self) -> list[str]:
        options = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT,
            "cluster-config-file": "nodes.conf",
            # A test that loses one node wants the others to go on.
            "cluster-require-full-coverage": "no",
            # A busy machine may cut a replica off for longer than it usually accepts.
            "cluster-replica-validity-factor": 0,
            "masterauth": self._of_all,
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": 0,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [*super()._command(), *words]

    @property
    def port(self) -> int:
        return self._port


class EmbeddedCluster:
    """Three primaries with a third of the slots each, from `with EmbeddedCluster()` on until its end."""

    def __init__(self, replicas: int = 0) -> None:
        """Have so many replicas of each primary."""
        self._password = secrets.token_hex(16)
        self.nodes = [ClusterNode(self._password) for _ in range(PRIMARIES * (1 + replicas))]
        self.killed: list[ClusterNode] = []

    @property
    def url(self) -> str:
        return ";".join(f"redis+cluster://:{self._password}@127.0.0.1:{node.port}" for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def _join(self) -> None:
        primaries, replicas = self.nodes[:PRIMARIES], self.nodes[PRIMARIES:]
        for number, node in enumerate(self.nodes, start=1):
            self.ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number)
        for number, node in enumerate(primaries):
            first, last = SLOTS * number // PRIMARIES, SLOTS * (number + 1) // PRIMARIES
            self.ask(node, "CLUSTER", "ADDSLOTS", *range(first, last))
        for node in self.nodes[1:]:
            self.ask(self.nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port)
        poll(self._knows_itself, "every node of the cluster knows the others")
        for number, node in enumerate(replicas):
            primary = primaries[number % PRIMARIES]
            self.ask(node, "CLUSTER", "REPLICATE", self.ask(primary, "CLUSTER", "MYID").decode())
        self.settle()

    def _knows_itself(self) -> bool:
        lines = [self.ask(node, "CLUSTER", "NODES").splitlines() for node in self.nodes]
        return all(
            len(of_one) == len(self.nodes) and not any(b"handshake" in line for line in of_one)
            for of_one in lines
        )

    def settle(self) -> None:
        """Wait until all nodes agree that all slots are served, and every replica follows its primary."""

        def is_settled() -> bool:
            for node in self.nodes:
                if b"cluster_state:ok" not in self.ask(node, "CLUSTER", "INFO"):
                    return False
                with self.client(node) as client:
                    if client.info("replication").get("master_link_status", "up") != "up":
                        return False
                nodes = self.ask(node, "CLUSTER", "NODES")
                if b"fail" in nodes or b"disconnected" in nodes:
                    return False
            return True

        poll(is_settled, "the cluster is whole")

    # -- looking into it, and breaking it --------------------------------------------------------------------

    def client(self, node: ClusterNode) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=node.port, password=self._password)

    def ask(self, node: ClusterNode, *command: str | int) -> bytes:
        """Return the raw reply of a node."""
        with self.client(node) as client:
            reply: bytes = client.execute_command(*command)
        return reply

    def primaries(self) -> list[ClusterNode]:
        """Return the nodes that run and have slots."""
        running = [node for node in self.nodes if node not in self.killed]
        return [node for node in running if b"myself,master" in self.ask(node, "CLUSTER", "NODES")]

    def primary_of(self, key: str) -> ClusterNode:
        """Return the node that serves a key."""
        for node in self.primaries():
            with suppress(redis.ResponseError):  # it names another node
                self.ask(node, "EXISTS", key)
                return node
        raise AssertionError(f"no node serves {key}")

    def keys(self) -> dict[str, ClusterNode]:
        """Return the node of every key."""
        found = {}
        for node in self.primaries():
            with self.client(node) as client:
                found |= {key.decode(): node for key in client.scan_iter(count=1000)}
        return found

    def flush(self, *nodes: ClusterNode) -> None:
        """Remove everything from these nodes, or from all."""
        for node in nodes or self.primaries():
            self.ask(node, "FLUSHALL")

    def kill(self, node: ClusterNode) -> None:
        node.kill()
        self.killed.append(node)

    def restart(self) -> None:
        """Start the nodes that were killed again, and wait until the cluster is whole."""
        for node in self.killed:
            node.restart()
        self.killed.clear()
        self.settle()

    def move_slot(self, key: str) -> None:
        """Move the slot of a key, with all of its keys, to another node."""
        slot, source = key_slot(key.encode()), self.primary_of(key)
        target = next(node for node in self.primaries() if node is not source)
        ids = [self.ask(node, "CLUSTER", "MYID").decode() for node in (source, target)]
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        with self.client(source) as client:
            keys: Any = client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            words = ("", 0, 5000, "AUTH", self._password, "KEYS")
            if keys:
                client.execute_command("MIGRATE", "127.0.0.1", target.port, *words, *keys)
        for node in (target, source):
            self.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[1])
