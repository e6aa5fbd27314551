"""One session of development, from its first line to Ctrl-C: what runs, what is shown, what to type next.

The worker is restarted whenever a file of the team changes. A worker that exits by itself, for example
because a module cannot be imported, is started again with the next change. Everything ends with the session,
in reverse order; the data of the servers stays in a folder for the next session.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from workflow_engine.demo.processes import Interrupted, Interruption, Processes
from workflow_engine.dev.sources import Sources
from workflow_engine.embedded import EmbeddedPostgres, EmbeddedRedis, EmbeddedServer
from workflow_engine.embedded.lifetime import make_folder
from workflow_engine.postgres import migrations
from workflow_engine.settings import ENVIRONMENT_PREFIX, Settings

WORKER = "worker"
FLOWER = "flower"
FLOWER_PORT = 5555
LOOK_INTERVAL = 0.5
ENVIRONMENT_FILE = "env"
"""The file that other terminals read with `.`: the addresses of the servers, and where the programs are."""

MARKER = "made-by-workflow-engine-dev"
SERVERS: dict[str, type[EmbeddedServer]] = {"database_url": EmbeddedPostgres, "redis_url": EmbeddedRedis}
READY = " ready."
"""The end of a worker's log line once it takes messages."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """The options of one session."""

    modules: tuple[str, ...]
    """The modules that register the team's nodes."""
    app: str | None
    """The team's Celery app, named as for `celery -A`; None for the engine's own."""
    queues: tuple[str, ...]
    """The queues that the worker consumes; those of its app if empty."""
    folder: Path
    concurrency: int
    with_flower: bool


def run(options: Options, say: Say) -> int:
    """Run a session in the foreground until it is interrupted. Return its exit status, 0 after Ctrl-C.

    Raises FolderUnusable, EmbeddedServerFailed and DatabaseUnavailable. Only the main thread can call this.
    """
    with Interruption() as interruption, ExitStack() as undo:
        try:
            session = Session(options, say, interruption)
            session.start(undo)
            session.go_on()
        except Interrupted as interrupted:
            return 0 if interrupted.signum == signal.SIGINT else 128 + interrupted.signum


class Session:
    """The servers, the worker and Flower of one session, and their states."""

    def __init__(self, options: Options, say: Say, interruption: Interruption) -> None:
        self._options = options
        self._folder = options.folder
        self._say = say
        self._interruption = interruption
        self._flower = ""
        self._has_been_ready = False

    def start(self, undo: ExitStack) -> None:
        """Start everything; `undo` ends it."""
        _make(self._folder)
        undo.callback(self._say, f"Everything has ended. The data is kept in {_from_here(self._folder)}.")
        own = self._start_servers(undo)
        settings = Settings(**own)
        migrations.upgrade(settings.database_url, settings.database_schema)
        variables = self._variables(own)
        (self._folder / ENVIRONMENT_FILE).write_text(_shell_lines(variables), encoding="utf-8")
        self._sources = Sources(Path.cwd(), (*self._options.modules, self._options.app or ""))
        self._processes = Processes(self._folder, _environment(variables), Path.cwd())
        undo.callback(self._processes.stop)
        undo.callback(self._say, "\nStopping the worker, Flower and the servers")
        self._start_worker()
        if self._options.with_flower:
            self._start_flower()

    def go_on(self) -> NoReturn:
        """Show the worker's log, and restart the worker when a file changes. Raises Interrupted."""
        while True:
            self._interruption.pause(LOOK_INTERVAL)
            self._show_worker()
            self._watch_flower()
            if changed := self._sources.changed():
                others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
                self._say(f"\n{_from_here(changed[0])}{others} changed: restarting the worker")
                self._worker_has_ended = True  # because we stop it
                self._processes.stop(WORKER)
                self._start_worker()

    # -- what runs -------------------------------------------------------------------------------------------

    def _start_servers(self, undo: ExitStack) -> dict[str, Any]:
        """Start the servers that the environment does not name, and return the settings that name them."""
        own: dict[str, Any] = {}
        for setting, kind in SERVERS.items():
            variable, server = f"{ENVIRONMENT_PREFIX}{setting.upper()}", kind.kind.name
            if os.environ.get(variable):
                self._say(f"{server:8}  from {variable}")
                continue
            kept_in = self._folder / server.lower()
            own[setting] = undo.enter_context(kind(durable=True, folder=kept_in)).url
            self._say(f"{server:8}  data in {_from_here(kept_in)}")
            self._interruption.check()
        return own

    def _variables(self, own: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables that name this session's servers and modules."""
        variables = {f"{ENVIRONMENT_PREFIX}{name.upper()}": value for name, value in own.items()}
        if self._options.modules:
            variables[f"{ENVIRONMENT_PREFIX}IMPORTS"] = ",".join(self._options.modules)
        if self._options.app:
            variables[f"{ENVIRONMENT_PREFIX}APP"] = self._options.app
            if "redis_url" in own:
                variables["CELERY_BROKER_URL"] = own["redis_url"]
        return variables

    def _start_worker(self) -> None:
        log = self._folder / f"{WORKER}.log"
        log.unlink(missing_ok=True)
        self._worker_log = LogTail(log)
        self._worker_has_ended = self._worker_is_ready = False
        options = ["--concurrency", str(self._options.concurrency), "--loglevel", "INFO", "--task-events"]
        options += ["--without-gossip", "--without-mingle", "--hostname", "dev@%h"]
        if self._options.queues:
            options += ["--queues", ",".join(self._options.queues)]
        self._processes.start(WORKER, [*self._celery, "--quiet", "worker", *options])

    def _start_flower(self) -> None:
        port = _free_port(FLOWER_PORT)
        (self._folder / f"{FLOWER}.log").unlink(missing_ok=True)
        program = str(Path(sys.executable).with_name("workflow-engine"))
        options = ["-A", self._options.app] if self._options.app else []
        self._processes.start(
            FLOWER, [program, *options, "ui", f"--port={port}", "--enable-events=True", "--address=127.0.0.1"]
        )
        self._flower = f"http://127.0.0.1:{port}"

    @property
    def _celery(self) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", self._options.app or "workflow_engine.worker"]

    # -- what is shown ---------------------------------------------------------------------------------------

    def _show_worker(self) -> None:
        for line in self._worker_log.lines():
            self._say(f"  {line}")
            if READY in line and not self._worker_is_ready:
                self._worker_is_ready = True
                self._show_that_it_is_ready()
        if self._worker_has_ended or (status := self._processes.status(WORKER)) is None:
            return
        self._worker_has_ended = True
        self._say(f"The worker exited with status {status}. It starts again when a Python file changes.")

    def _watch_flower(self) -> None:
        if self._flower and self._processes.status(FLOWER) is not None:
            self._flower = ""
            self._say(f"Flower has exited; {_from_here(self._folder / f'{FLOWER}.log')} says why.")

    def _show_that_it_is_ready(self) -> None:
        if self._has_been_ready:
            self._say("The worker is ready again.")
            return
        self._has_been_ready = True
        environment = _from_here(self._folder / ENVIRONMENT_FILE)
        self._say("\nReady. A change of a Python file restarts the worker; Ctrl-C ends everything.")
        if self._flower:
            self._say(f"Flower: {self._flower}")
        self._say("To continue, in another terminal in this folder:")
        for line in (
            f"  . {environment}",
            "  workflow-engine deploy WORKFLOW.yaml",
            "  workflow-engine start WORKFLOW --data '{}' --wait 30",
            "  workflow-engine list",
        ):
            self._say(line)
        if not (self._options.modules or self._options.app):
            self._say("No module of nodes was named; `workflow-engine dev MODULE` loads yours.")
        self._say("")


class LogTail:
    """Reads the lines that another process adds to a log."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def lines(self) -> list[str]:
        """Return the lines completed since the last call."""
        with self._path.open("rb") as log:
            log.seek(self._read)
            added = log.read()
        complete = added[: added.rfind(b"\n") + 1]
        self._read += len(complete)
        return complete.decode(errors="replace").splitlines()


def _make(folder: Path) -> None:
    make_folder(folder, MARKER)
    folder.chmod(0o711)  # servers that root starts run as another user, who has to enter it
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    environment = folder / ENVIRONMENT_FILE
    environment.touch(mode=0o600)
    environment.chmod(0o600)  # it has passwords


def _shell_lines(variables: Mapping[str, str]) -> str:
    """Return what another terminal needs: the variables, and the programs beside this one on its PATH."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    programs = shlex.quote(str(Path(sys.executable).parent))
    return "".join([*lines, f'export PATH={programs}:"$PATH"\n'])


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    # Celery's own variables would lead the worker to the broker of another project.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "FLOWER_"))}
    path = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    return {**kept, **variables, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise RuntimeError("no port of 127.0.0.1 is free")


def _from_here(path: Path) -> str:
    """Return a path as a person would type it here."""
    return os.path.relpath(path) if path.is_absolute() else str(path)
