"""How embedded servers and their files end with the process that started them, however that process ends.

A process that returns, raises or is asked to end stops its servers itself. One that gets SIGKILL cannot: then
Linux ends the servers, and the next process that starts a server removes the folder.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from workflow_engine.embedded.programs import ProcessOwner
from workflow_engine.errors import WorkflowEngineError

SCRATCH_NAME = re.compile(r"workflow-engine-\d+-\w+")
MARKER = "embedded-server-files"
IDENTITY = "identity.json"
PR_SET_PDEATHSIG = 1


class Stoppable(Protocol):
    def stop(self) -> None: ...


@dataclass(frozen=True)
class Identity:
    """The password and port of a server whose data is kept."""

    password: str
    port: int


class ServerFolder:
    """The folder of a server: its log, and `data`, which belongs to the server, for everything else."""

    def __init__(self, path: Path, lock: int, owner: ProcessOwner) -> None:
        self.path = path
        self.path.chmod(0o711)
        self.log = path / "server.log"
        self.data = path / "data"
        self._lock = lock
        self._owner = owner
        self.data.mkdir(mode=0o700, exist_ok=True)
        self._give_to_owner(self.data)

    def write(self, name: str, content: str) -> Path:
        """Write a file in the data folder that only the owner may read, and return its path."""
        path = self.data / name
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")
        self._give_to_owner(path)
        return path

    @property
    def identity(self) -> Identity | None:
        """What every server on this data has in common; None before the data was created."""
        try:
            return Identity(**json.loads((self.path / IDENTITY).read_text(encoding="utf-8")))
        except FileNotFoundError:
            if any(self.data.iterdir()):
                message = f"the data in {self.path} is incomplete: remove it, or name another folder"
                raise FolderUnusable(message) from None
            return None

    @identity.setter
    def identity(self, identity: Identity) -> None:
        draft = self.path / f"{IDENTITY}.draft"
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(identity)), encoding="utf-8")
        draft.replace(self.path / IDENTITY)

    def leave(self) -> None:
        """Release the folder: another process may use it now."""
        os.close(self._lock)

    def _give_to_owner(self, path: Path) -> None:
        if self._owner:
            os.chown(path, self._owner["user"], self._owner["group"])


class ScratchFolder(ServerFolder):
    """A temporary folder that ends with the process that created it.

    A marker in it holds the folder's own name, and is locked as long as the process lives. A folder is a
    leftover only if it has a name of our form and such a marker, and the marker is not locked. The lock
    decides, not the process id in the name, which is for people: process ids are reused, and containers that
    share a /tmp number their processes separately.
    """

    def __init__(self, owner: ProcessOwner) -> None:
        _remove_leftovers()
        path = Path(tempfile.mkdtemp(prefix=f"workflow-engine-{os.getpid()}-"))
        super().__init__(path, _mark(path), owner)

    def leave(self) -> None:
        """Remove the folder and all that is in it."""
        # A server that is still exiting may write a last file while the rest is being removed.
        for _ in range(20):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                break
            time.sleep(0.05)
        super().leave()


class KeptFolder(ServerFolder):
    """A folder whose data is kept for the next server; one process at a time may use it.

    Nothing in it is removed. Raises FolderUnusable for a folder with other files, or that is in use.
    """

    def __init__(self, path: Path, owner: ProcessOwner) -> None:
        make_folder(path, MARKER)
        lock = os.open(path / MARKER, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            super().__init__(path.resolve(), lock, owner)
            _check_that_it_is_reachable(self.data, owner)
        except BlockingIOError:
            os.close(lock)
            raise FolderUnusable(f"{path} is in use by another process") from None
        except BaseException:
            os.close(lock)
            raise


def _check_that_it_is_reachable(data: Path, owner: ProcessOwner) -> None:
    if not owner:
        return
    look = subprocess.run(["/bin/sh", "-c", 'cd "$0"', data], check=False, cwd="/", **owner)  # noqa: S603
    if look.returncode != 0:
        raise FolderUnusable(
            f"the user 'nobody', who runs root's servers, may not enter {data}: name another folder"
        )


class FolderUnusable(WorkflowEngineError):
    """A folder cannot be used for data; the message says why and what to do."""


def make_folder(path: Path, marker: str) -> None:
    """Create a folder with a marker in it, or check that it has one.

    Raises FolderUnusable for a folder with foreign files, which stay unchanged.
    """
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()) and not (path / marker).exists():
        raise FolderUnusable(
            f"{path} has files that the workflow engine has not written: name another folder"
        )
    (path / marker).touch(mode=0o600)


def _mark(folder: Path) -> int:
    """Put a marker into a folder. Return its descriptor, which holds the lock."""
    lock = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, folder.name.encode())  # after locking: a folder with an empty marker is no leftover
    return lock


def _remove_leftovers() -> None:
    for path in Path(tempfile.gettempdir()).glob("workflow-engine-*"):
        if SCRATCH_NAME.fullmatch(path.name):
            _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    """Remove a folder that a process of this user created for its server and can no longer remove."""
    try:
        lock = os.open(path / MARKER, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return  # not ours, or gone by now
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names_its_folder = os.read(lock, 255) == path.name.encode()  # a copy elsewhere is not ours
        if names_its_folder and os.fstat(lock).st_uid == os.geteuid() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return  # its process lives
    finally:
        os.close(lock)


def fork_server(
    command: list[str],
    folder: ServerFolder,
    owner: ProcessOwner,
    when_abandoned: signal.Signals,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Run a program in the data folder, with its output in the log; the kernel signals it if we die.

    `variables` are added to its environment.
    """

    def fork() -> subprocess.Popen[bytes]:
        with folder.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command lines only
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder.data,
                env={**_environment(), **(variables or {})},
                # Ctrl-C reaches every process of a terminal, and servers must outlast their clients.
                start_new_session=True,
                preexec_fn=_end_with_parent(when_abandoned),  # noqa: PLW1509 - it takes no lock
                **owner,
            )

    return _forking_thread().submit(fork).result()


def _environment() -> dict[str, str]:
    """Return the variables that programs need to run and no others: PG… would change what Postgres does."""
    kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


def _end_with_parent(signum: signal.Signals) -> Callable[[], None]:
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def in_child() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, int(signum))
            if os.getppid() != parent:  # the parent died before the signal was requested
                os._exit(1)

    return in_child


@functools.cache
def _forking_thread() -> ThreadPoolExecutor:
    """Return the one thread that forks servers: Linux ends a child with the *thread* that forked it."""
    return ThreadPoolExecutor(1, "embedded-servers")


_servers: set[Stoppable] = set()


def end_with_this_process(server: Stoppable) -> None:
    """Stop the server when this process exits or is asked to end, until `forget` is called for it."""
    _servers.add(server)
    # SIGTERM and SIGHUP end a process without `finally` or `atexit`, unless the application handles them.
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is signal.SIG_DFL:
                signal.signal(signum, _stop_servers_and_die)


def forget(server: Stoppable) -> None:
    """Do not stop this server at the end of the process: it is stopped already."""
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
