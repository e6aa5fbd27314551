"""A RabbitMQ of the machine's own programs, for tests and benchmarks; no wheel has them.

It is one node on free ports, with everything that it writes in one folder. Its programs are those that do not
change to a user of their own, as those on the PATH do.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from workflow_engine.embedded.lifetime import ScratchFolder, end_with_this_process, forget, fork_server
from workflow_engine.errors import EmbeddedServerFailed

PROGRAMS = "/usr/lib/rabbitmq/bin"
"""Where Debian has them."""

START_TIMEOUT = 240.0
"""Seconds; it takes eight of processor time."""

STOP_TIMEOUT = 20.0

PROTOCOL = b"AMQP\x00\x00\x09\x01"
FIRST_FRAME = b"\x01"
"""What a client of AMQP 0-9-1 sends first, and how the reply of a server that is ready begins."""


def rabbitmq_programs() -> Path | None:
    """Return the folder of RabbitMQ's programs; None if this machine has none."""
    folder = Path(PROGRAMS)
    return folder if (folder / "rabbitmq-server").exists() and shutil.which("erl") else None


class EmbeddedRabbit:
    """One node, from `with EmbeddedRabbit()` on until its end."""

    def __init__(self) -> None:
        self._folder: ScratchFolder | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self._dist_port, self._epmd_port = (_free_port() for _ in range(3))

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def pid(self) -> int:
        """The process id of the script that runs the server as its child."""
        if self._process is None:
            raise RuntimeError("the embedded RabbitMQ is not running")
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it on what is on its disk, and wait until it accepts clients.

        Raises `EmbeddedServerFailed`.
        """
        if (programs := rabbitmq_programs()) is None:
            raise EmbeddedServerFailed(
                "RabbitMQ", "this machine has no RabbitMQ: apt install rabbitmq-server"
            )
        if self._folder is None:
            end_with_this_process(self)
            self._folder = ScratchFolder({})
            self._folder.write("plugins", "[].\n")
            self._folder.write("rabbitmq.conf", "loopback_users.guest = true\n")
        command = [str(programs / "rabbitmq-server")]
        # The script ends the server when it is asked to; killed itself, it would leave it behind.
        self._process = fork_server(command, self._folder, {}, signal.SIGTERM, self._variables(self._folder))
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self._folder.log.read_text(encoding="utf-8", errors="replace")[-3000:]
                raise EmbeddedServerFailed("RabbitMQ", "the embedded RabbitMQ did not start", log)
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a crash would; its queues are on disk."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT)
        self._process = None

    def stop(self) -> None:
        """End it, if it runs, and remove its files."""
        self.kill()
        if self._folder is not None:
            # Erlang's directory of nodes is a daemon, which this node has started and no other knows.
            environment = {**os.environ, **self._variables(self._folder)}
            subprocess.run(["epmd", "-kill"], env=environment, check=False, capture_output=True)  # noqa: S607
            self._folder.leave()
        self._folder = None
        forget(self)

    def _variables(self, folder: ScratchFolder) -> dict[str, str]:
        data = folder.data
        return {
            "HOME": str(data),  # Erlang's cookie
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": f"workflow{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(data),
            "RABBITMQ_LOG_BASE": str(data),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(data / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(data / "none"),
            "RABBITMQ_PID_FILE": str(data / "pid"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",  # it may be ended although a node was not signed off
        }

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(PROTOCOL)
                return connection.recv(1) == FIRST_FRAME
        except OSError:
            return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port: int = reserved.getsockname()[1]
    return port
