"""A RabbitMQ of the machine's own programs, on a free port, with everything that it writes in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import amqp

from support.polling import poll
from support.worker_processes import WorkerProcess

PROGRAMS = "/usr/lib/rabbitmq/bin"
"""Where Debian has them; those on the PATH change to a user of their own."""
START_TIMEOUT = 240.0
"""Seconds; it takes eight of processor time."""


def rabbitmq_programs() -> Path | None:
    """Return the folder of RabbitMQ's programs; None if this machine has none."""
    folder = Path(PROGRAMS)
    return folder if (folder / "rabbitmq-server").exists() and shutil.which("erl") else None


class EmbeddedRabbit:
    """One node, from `with EmbeddedRabbit()` on until its end."""

    def __init__(self) -> None:
        programs = rabbitmq_programs()
        assert programs is not None, "apt install rabbitmq-server"
        self._folder = Path(tempfile.mkdtemp(prefix="workflow-engine-rabbit-"))
        self._port, self._dist_port, self._epmd_port = (_free_port() for _ in range(3))
        self._environment = {
            **os.environ,
            "HOME": str(self._folder),  # Erlang's cookie
            "RABBITMQ_NODENAME": f"workflow{self._port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self._folder),
            "RABBITMQ_LOG_BASE": str(self._folder),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_RELAXED_COMMAND_CHECK": "1",  # it may be ended although a node was not signed off
        }
        self._process = WorkerProcess(
            "rabbitmq", [str(programs / "rabbitmq-server")], self._folder, self._environment
        )

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}//"

    def __enter__(self) -> Self:
        (self._folder / "plugins").write_text("[].\n")
        (self._folder / "rabbitmq.conf").write_text("loopback_users.guest = true\n")
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._process.start()
        poll(self._answers, "RabbitMQ accepts connections", timeout=START_TIMEOUT)

    def kill(self) -> None:
        """End it as a crash would; its queues are on disk."""
        self._process.kill_group(signal.SIGKILL)
        self._process.wait(20)

    def stop(self) -> None:
        if self._process.status == "running":
            self.kill()
        # Erlang's directory of nodes is a daemon, which this node has started and no other knows.
        subprocess.run(["epmd", "-kill"], env=self._environment, check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def delete_queue(self, name: str) -> None:
        with self._connection() as connection:
            connection.channel().queue_delete(name)

    def queue_type(self, name: str) -> str:
        """Return `quorum` or `classic`, which RabbitMQ shows by what it refuses."""
        with self._connection() as connection:
            try:
                arguments = {"x-queue-type": "quorum"}
                connection.channel().queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
            except amqp.exceptions.PreconditionFailed:
                return "classic"
        return "quorum"

    def _connection(self) -> amqp.Connection:
        return amqp.Connection(f"127.0.0.1:{self._port}", "guest", "guest", connect_timeout=5)

    def _answers(self) -> bool:
        assert self._process.status == "running", f"RabbitMQ ended at once:\n{self._process.logs()[-3000:]}"
        try:
            with self._connection() as connection:
                connection.connect()
        except (OSError, amqp.exceptions.AMQPError):
            return False
        return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port: int = reserved.getsockname()[1]
    return port
