"""How embedded servers and what they wrote end with the process that started them, however that one ends.

A process that returns, raises or is told to end stops its servers itself. One that gets SIGKILL cannot: then
Linux ends the servers, and the next process that starts a server removes the folder.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Protocol

from workflow_engine.embedded.programs import ProcessOwner

SCRATCH_PREFIX = "workflow-engine-"
PR_SET_PDEATHSIG = 1


class Stoppable(Protocol):
    def stop(self) -> None: ...


class ScratchFolder:
    """A temporary folder that is locked as long as its process lives; one that is not locked is a leftover.

    The lock is on the folder itself. It decides, and not the process id in the name, which is for people:
    process ids are used again, and containers that share a /tmp count theirs separately. `data` inside it
    belongs to the server.
    """

    def __init__(self, owner: ProcessOwner) -> None:
        _remove_leftovers()
        self.path, self._lock = _locked_folder()
        self.path.chmod(0o711)
        self.log = self.path / "server.log"
        self.data = self.path / "data"
        self._owner = owner
        self.data.mkdir(mode=0o700)
        self._give_to_owner(self.data)

    def write(self, name: str, content: str) -> Path:
        """A file in the data folder that only the owner may read."""
        path = self.data / name
        path.touch(mode=0o600)
        path.write_text(content)
        self._give_to_owner(path)
        return path

    def remove(self) -> None:
        # A server that is still dying may write a last file while the rest is being removed.
        for _ in range(20):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break
            time.sleep(0.05)
        os.close(self._lock)

    def _give_to_owner(self, path: Path) -> None:
        if self._owner:
            os.chown(path, self._owner["user"], self._owner["group"])


def _locked_folder() -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-"))
        lock = os.open(path, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():  # nobody took it for a leftover before it was locked
            return path, lock
        os.close(lock)


def _remove_leftovers() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, or gone by now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            continue  # its process lives
        finally:
            os.close(lock)


def fork_server(
    command: list[str], folder: ScratchFolder, owner: ProcessOwner, when_abandoned: signal.Signals
) -> subprocess.Popen[bytes]:
    """Run a program in the data folder, its output in the log; it gets a signal when this process is gone."""

    def fork() -> subprocess.Popen[bytes]:
        with folder.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command lines only
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder.data,
                env=_environment(),
                # Ctrl-C reaches every process of a terminal, and servers must outlast their clients.
                start_new_session=True,
                preexec_fn=_end_with_parent(when_abandoned),  # noqa: PLW1509 - it takes no lock
                **owner,
            )

    return _forking_thread().submit(fork).result()


def _environment() -> dict[str, str]:
    """What programs need to run and nothing else: PG… would change what Postgres does."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def _end_with_parent(signum: signal.Signals) -> Callable[[], None]:
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def in_child() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, int(signum))
            if os.getppid() != parent:  # it was gone before we could ask for the signal
                os._exit(1)

    return in_child


@functools.cache
def _forking_thread() -> ThreadPoolExecutor:
    """The one thread that forks servers: Linux ends a child with the *thread* that forked it."""
    return ThreadPoolExecutor(1, "embedded-servers")


_servers: set[Stoppable] = set()


def end_with_this_process(server: Stoppable) -> None:
    """Have the server stopped when this process exits or is told to end, until `forget` is called for it."""
    _servers.add(server)
    # SIGTERM and SIGHUP end a process without `finally` or `atexit`, unless the application handles them.
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is signal.SIG_DFL:
                signal.signal(signum, _stop_servers_and_die)


def forget(server: Stoppable) -> None:
    """The server is stopped."""
    _servers.discard(server)


def _stop_servers() -> None:
    for server in tuple(_servers):
        server.stop()


def _stop_servers_and_die(signum: int, _frame: FrameType | None) -> None:
    _stop_servers()
    signal.signal(signum, signal.SIG_DFL)
    signal.raise_signal(signum)


atexit.register(_stop_servers)
# A forked child inherits both, but its parent's servers are not its own to stop, and threads are not forked.
os.register_at_fork(after_in_child=_servers.clear)
os.register_at_fork(after_in_child=_forking_thread.cache_clear)
