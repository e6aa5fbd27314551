"""A machine that vanishes is told from a frozen process by Redis' `tcp-keepalive`.

The machine is a network namespace, whose cable is cut: no packet tells Redis that its processes are gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from support.polling import poll
from workflow_engine import Settings
from workflow_engine.embedded import EmbeddedRedis
from workflow_engine.redis.client import connect_redis
from workflow_engine.redis.presence import Introduction, Presence

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
    ),
]

MACHINE, CABLE, THEIR_END = "workflow-engine", "wf-cable", "wf-end"
HERE, THERE = "10.199.7.1", "10.199.7.2"
KEEPALIVE = 5
CLOSED_WITHIN = 2 * KEEPALIVE + 20
"""Seconds, on a crowded machine; less than the five minutes of Redis' default."""

PROCESS = """
import sys, time
from workflow_engine import Settings
from workflow_engine.redis.client import connect_redis
from workflow_engine.redis.presence import Introduction, life_of_this_process
settings = Settings(redis_url=sys.argv[1])
client = connect_redis(settings, introduce=Introduction(settings))
client.ping()
print(life_of_this_process(), flush=True)
time.sleep(3600)
"""


class ListeningRedis(EmbeddedRedis):
    """A Redis that the machine reaches, and that probes idle connections."""

    def _command(self) -> list[str]:
        return [*super()._command(), "--bind", "127.0.0.1", HERE, "--tcp-keepalive", str(KEEPALIVE)]


@pytest.fixture
def machine() -> Iterator[None]:
    """Return a machine with a cable to this one."""
    _ip("netns", "add", MACHINE)
    try:
        _ip("link", "add", CABLE, "type", "veth", "peer", "name", THEIR_END, "netns", MACHINE)
        _ip("addr", "add", f"{HERE}/24", "dev", CABLE)
        _ip("link", "set", CABLE, "up")
        _ip("-n", MACHINE, "addr", "add", f"{THERE}/24", "dev", THEIR_END)
        _ip("-n", MACHINE, "link", "set", THEIR_END, "up")
        yield
    finally:
        _ip("netns", "del", MACHINE)


@pytest.fixture
def server(machine: None) -> Iterator[EmbeddedRedis]:
    with ListeningRedis() as server:
        yield server


def test_the_connections_of_a_vanished_machine_end_and_those_of_a_frozen_process_do_not(
    server: EmbeddedRedis,
) -> None:
    settings = Settings(redis_url=server.url)
    client = connect_redis(settings, introduce=Introduction(settings))
    presence = Presence(client, settings)
    elsewhere = server.url.replace("127.0.0.1", HERE)
    processes = [
        _Process(["ip", "netns", "exec", MACHINE, sys.executable], elsewhere),
        _Process([sys.executable], server.url),
    ]
    vanished, frozen = (process.life for process in processes)
    try:
        assert presence.look() == frozenset()

        processes[1].signal(signal.SIGSTOP)
        _ip("link", "set", CABLE, "down")

        assert presence.disconnected([vanished, frozen]) == frozenset(), "no packet says so"
        poll(presence.look, "the vanished process is over", timeout=CLOSED_WITHIN)
        assert presence.look() == {vanished}
        assert presence.disconnected([vanished, frozen]) == {vanished}
    finally:
        for process in processes:
            process.signal(signal.SIGKILL)
        client.close()


class _Process:
    """A process of the engine that has introduced itself to Redis, and does nothing."""

    def __init__(self, python: list[str], redis_url: str) -> None:
        command = [*python, "-c", PROCESS, redis_url]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.life = self._process.stdout.readline().strip()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
