"""Postgres and Redis for development, the demo and the tests, started and stopped with the process.

They are real servers, run from the machine's own programs or from wheels, on free ports of the loopback
address. Each has a random password, because every user of the machine may connect to those ports.
"""

from __future__ import annotations

import random
import secrets
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psycopg2

from workflow_engine.embedded.lifetime import (
    FolderUnusable,
    Identity,
    KeptFolder,
    ScratchFolder,
    ServerFolder,
    end_with_this_process,
    forget,
    fork_server,
)
from workflow_engine.embedded.programs import (
    POSTGRES,
    REDIS,
    Installation,
    ProcessOwner,
    ServerKind,
    system_installations,
    unprivileged_owner,
    usable_installation,
    wheel_installations,
)
from workflow_engine.errors import EmbeddedServerFailed

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
# Below the range from which Linux and macOS take ports for outgoing connections: otherwise a client that
# keeps trying to reach a server that is down could get the server's port, and connect to itself.
PORTS = range(15_000, 32_000)
PORT_ATTEMPTS = 5


class EmbeddedServer(ABC):
    """A server on a free port of the loopback address, with a folder of its own.

    A `durable` server keeps its data through a crash, as a real one does; one that is not is faster. Either
    way the data is gone after `stop()`, unless `folder` names a folder that keeps it. The next server in this
    folder has the same data, the same password and, if it is still free, the same port. `installation` is for
    tests; by default the machine's own programs are used, else those of the extra `embedded`.
    """

    kind: ClassVar[ServerKind]
    stop_signal: ClassVar[signal.Signals]
    crash_signal: ClassVar[signal.Signals]

    def __init__(
        self, *, durable: bool = False, installation: Installation | None = None, folder: Path | None = None
    ) -> None:
        self.durable = durable
        self._kept_in = folder
        self._candidates = [installation] if installation else None
        self._owner: ProcessOwner = {}
        self._password = ""
        self._port = 0
        self._used_folder: ServerFolder | None = None
        self._programs: Installation | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for clients of this server, including its password."""

    @property
    def pid(self) -> int:
        """The process id of the server; of Postgres, of its postmaster."""
        if self._process is None:
            raise RuntimeError(f"the embedded {self.kind.name} is not running")
        return self._process.pid

    def start(self) -> Self:
        """Start the server and wait until it responds; do nothing if it was started before.

        Raises EmbeddedServerFailed, and then nothing is left behind.
        """
        if self._used_folder is not None:
            return self
        try:
            end_with_this_process(self)
            self._owner = unprivileged_owner()
            kept = self._kept_in
            self._start_in(KeptFolder(kept, self._owner) if kept else ScratchFolder(self._owner))
        except (FolderUnusable, OSError) as error:
            self.stop()
            raise EmbeddedServerFailed(self.kind.name, f"{self.kind.name} cannot start: {error}") from error
        except BaseException:
            self.stop()
            raise
        return self

    def _start_in(self, folder: ServerFolder) -> None:
        self._used_folder = folder
        known = folder.identity
        self._password = known.password if known else secrets.token_hex(16)
        candidates = self._candidates or system_installations(self.kind) + wheel_installations(self.kind)
        self._programs = usable_installation(self.kind, self._owner, folder.path, candidates)
        if known is None:
            self._create_data()
            folder.identity = Identity(self._password, 0)
        self._launch_on_a_free_port(known.port if known else 0)
        folder.identity = Identity(self._password, self._port)

    def stop(self) -> None:
        """End the server, if it runs, and remove its files, unless its folder keeps them."""
        self._end(self.stop_signal)
        if self._used_folder is not None:
            self._used_folder.leave()
        self._used_folder = None
        forget(self)

    def kill(self) -> None:
        """End the server as a crash would, at once and without cleaning up; `restart()` starts it again."""
        self._end(self.crash_signal)

    def restart(self) -> None:
        """Start the server again, on the same port and its remaining data; end it first if it runs."""
        if self._used_folder is None:
            raise RuntimeError(f"the embedded {self.kind.name} was never started, or is stopped for good")
        self._end(self.stop_signal)
        self._launch()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @abstractmethod
    def _create_data(self) -> None:
        """Create in the data folder the files that the server needs."""

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command line that runs the server in the foreground."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the server accepts a client and its password by now."""

    def _launch_on_a_free_port(self, preferred: int = 0) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self._port = preferred if attempt == 1 and _is_free(preferred) else _free_port()
            try:
                self._launch()
            except EmbeddedServerFailed as error:
                # Another process took the port between our check and the server's start.
                if "already in use" not in error.log.lower() or attempt == PORT_ATTEMPTS:
                    raise
            else:
                return

    def _launch(self) -> None:
        self._process = self._run(self._command())
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if (status := self._process.poll()) is not None:
                raise self._failure(f"the embedded {self.kind.name} exited at once, with status {status}")
            if time.monotonic() > deadline:
                raise self._failure(f"the embedded {self.kind.name} did not respond for {START_TIMEOUT:g} s")
            time.sleep(0.01)

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        return fork_server(command, self._folder, self._owner, when_abandoned=self.crash_signal)

    def _end(self, first: signal.Signals) -> None:
        process = self._process
        for signum in (first, self.crash_signal, signal.SIGKILL):
            if process is None or process.poll() is not None:
                break
            process.send_signal(signum)
            process.send_signal(signal.SIGCONT)  # a test may have frozen it
            deadline = time.monotonic() + STOP_TIMEOUT
            # Not wait(): it holds a lock that a signal handler which runs this again would wait for.
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
        self._process = None

    @property
    def _folder(self) -> ServerFolder:
        assert self._used_folder is not None
        return self._used_folder

    def _program(self, name: str) -> str:
        assert self._programs is not None
        return str(self._programs.folder / name)

    def _failure(self, message: str) -> EmbeddedServerFailed:
        log = (
            self._folder.log.read_text(encoding="utf-8", errors="replace")
            if self._folder.log.exists()
            else ""
        )
        message = f"{message}; or set {self.kind.url_variable} to one that is running"
        return EmbeddedServerFailed(self.kind.name, message, "\n".join(log.splitlines()[-15:]))


class EmbeddedPostgres(EmbeddedServer):
    """A Postgres with one empty database, `workflow_engine`, and a superuser of the same name."""

    kind = POSTGRES
    stop_signal = signal.SIGINT
    # An "immediate shutdown": all its processes end at once and the data is left as by a crash. SIGKILL would
    # let sessions finish their statements, and leave a segment of shared memory in the kernel.
    crash_signal = signal.SIGQUIT

    @property
    def url(self) -> str:
        return (
            f"postgresql+psycopg2://workflow_engine:{self._password}@127.0.0.1:{self._port}/workflow_engine"
        )

    def _create_data(self) -> None:
        password_file = self._folder.write("password", self._password)
        options = "--pgdata=cluster --username=workflow_engine --auth=scram-sha-256 --pwfile=password"
        options += " --encoding=UTF8 --locale=C --no-sync"
        status = self._run([self._program("initdb"), *options.split()]).wait()
        password_file.unlink()
        if status != 0:
            raise self._failure("initdb could not create a Postgres cluster")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [self._program("postgres"), "-D", "cluster", *options]

    def _answers(self) -> bool:
        try:
            self._create_database()
        except psycopg2.OperationalError:
            return False
        return True

    def _create_database(self) -> None:
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self._port,
            user="workflow_engine",
            password=self._password,
            dbname="postgres",
            connect_timeout=2,
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'workflow_engine'")
                if cursor.fetchone() is None:
                    cursor.execute("CREATE DATABASE workflow_engine")
        finally:
            connection.close()


class EmbeddedRedis(EmbeddedServer):
    """A Redis with 64 databases that evicts nothing; a durable one keeps a log, synced every second."""

    kind = REDIS
    stop_signal = signal.SIGTERM
    crash_signal = signal.SIGKILL

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def _create_data(self) -> None:
        settings = {
            "bind": "127.0.0.1",
            "requirepass": self._password,
            "databases": "64",
            "save": '""',
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        # In a file, because every user of the machine may read the command line of a process.
        self._folder.write("redis.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))

    def _command(self) -> list[str]:
        return [self._program("redis-server"), "redis.conf", "--port", str(self._port)]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=2) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\nQUIT\r\n".encode())
                with connection.makefile("rb") as answers:
                    return answers.read().startswith(b"+OK\r\n+PONG")
        except OSError:
            return False


class EmbeddedServers:
    """Both servers at once, for the demo and for development."""

    def __init__(self, *, durable: bool = False) -> None:
        self.postgres = EmbeddedPostgres(durable=durable)
        self.redis = EmbeddedRedis(durable=durable)

    @property
    def database_url(self) -> str:
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        return self.redis.url

    def start(self) -> Self:
        """Start both. Raises EmbeddedServerFailed, and then neither runs."""
        try:
            self.redis.start()
            self.postgres.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        self.postgres.stop()
        self.redis.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        if _is_free(port):
            return port
    raise EmbeddedServerFailed(
        "server", f"no port of 127.0.0.1 between {PORTS.start} and {PORTS.stop} is free"
    )


def _is_free(port: int) -> bool:
    if port not in PORTS:
        return False
    with socket.socket() as probe:
        # As the servers do: the remains of a closed connection do not block its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
