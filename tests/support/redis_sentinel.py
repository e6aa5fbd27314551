"""A Redis with a replica, and three sentinels that let the replica take its place."""

from __future__ import annotations

import secrets
import socket
from typing import Any, Self

import redis

from support.polling import poll
from workflow_engine.embedded import EmbeddedRedis

NAME, SENTINELS, QUORUM = "main", 3, 2

DOWN_AFTER = 500
"""Milliseconds without a reply after which a sentinel takes the primary for down."""
FAILOVER_TIMEOUT = 2_000
"""Milliseconds, twice of which have to pass between two failovers."""


class Replicated(EmbeddedRedis):
    """The primary, or a replica of another one that has the same password."""

    def __init__(self, password: str, primary: Replicated | None = None) -> None:
        super().__init__()
        self._of_both = password
        self.primary = primary

    def _create_data(self) -> None:
        self._password = self._of_both
        super()._create_data()

    def _command(self) -> list[str]:
        options = [
            "--masterauth",
            self._of_both,
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ]
        of_primary = ["--replicaof", "127.0.0.1", str(self.primary.port)] if self.primary else []
        return [*super()._command(), *options, *of_primary]

    @property
    def port(self) -> int:
        return self._port


class Sentinel(EmbeddedRedis):
    """One sentinel, without a password."""

    def __init__(self, password: str, primary: Replicated) -> None:
        super().__init__()
        self._of_primary = password
        self._primary = primary

    @property
    def port(self) -> int:
        return self._port

    def _create_data(self) -> None:
        lines = [
            "bind 127.0.0.1",
            f"sentinel monitor {NAME} 127.0.0.1 {self._primary.port} {QUORUM}",
            f"sentinel auth-pass {NAME} {self._of_primary}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER}",
            f"sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT}",
        ]
        self._folder.write("sentinel.conf", "".join(f"{line}\n" for line in lines))

    def _command(self) -> list[str]:
        return [self._program("redis-server"), "sentinel.conf", "--sentinel", "--port", str(self._port)]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith(b"+PONG")
        except OSError:
            return False


class EmbeddedSentinels:
    """All five, from `with EmbeddedSentinels()` on until its end."""

    def __init__(self) -> None:
        self._password = secrets.token_hex(16)
        self.first = Replicated(self._password)
        self.second = Replicated(self._password, self.first)
        self.sentinels: list[Sentinel] = []
        self._down: Replicated | None = None

    def __enter__(self) -> Self:
        try:
            self.first.start()
            self.second.start()
            for _ in range(SENTINELS):
                self.sentinels.append(Sentinel(self._password, self.first))
                self.sentinels[-1].start()
            self.settle()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for server in (*self.sentinels, self.first, self.second):
            server.stop()

    @property
    def url(self) -> str:
        places = (f"sentinel://:{self._password}@127.0.0.1:{each.port}/0" for each in self.sentinels)
        return ";".join(f"{place}?master_name={NAME}" for place in places)

    def client(self, server: Replicated) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=server.port, password=self._password)

    def primary(self) -> Replicated:
        """Return the server that most sentinels name."""
        ports = []
        for sentinel in self.sentinels:
            with redis.Redis(host="127.0.0.1", port=sentinel.port) as client:
                address: Any = client.execute_command("SENTINEL", "get-master-addr-by-name", NAME)
            ports.append(int(address[1]))
        port = max(set(ports), key=ports.count)
        return self.first if self.first.port == port else self.second

    def kill_primary(self) -> Replicated:
        """Kill the primary, and return it."""
        self._down = self.primary()
        self._down.kill()
        return self._down

    def wait_for_failover(self, former: Replicated) -> None:
        """Wait until the sentinels name the other server, and it accepts writes."""

        def has_taken_over() -> bool:
            primary = self.primary()
            with self.client(primary) as client:
                return primary is not former and client.info("replication")["role"] == "master"

        poll(has_taken_over, "the replica has taken over", timeout=60)

    def restart(self) -> None:
        """Start a server that was killed again, as a replica if the other has taken its place."""
        if self._down is not None:
            primary = self.primary()
            self._down.primary = None if primary is self._down else primary
            primary.primary = None
            self._down.restart()
            self._down = None

    def settle(self) -> None:
        """Wait until the replica follows its primary, and every sentinel knows all of the others."""

        def is_settled() -> bool:
            for sentinel in self.sentinels:
                with redis.Redis(host="127.0.0.1", port=sentinel.port) as client:
                    state = client.sentinel_master(NAME)
                counts = state["num-slaves"], state["num-other-sentinels"]
                if state["is_odown"] or counts != (1, SENTINELS - 1):
                    return False
            with self.client(self.primary()) as client:
                replication = client.info("replication")
            return replication["role"] == "master" and replication.get("slave0", {}).get("state") == "online"

        poll(is_settled, "the sentinels know everything", timeout=60)
