"""Typed as it stands, docs/first-node.md does what it shows and leaves nothing behind but the data."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.repository import ROOT

BLOCK = re.compile(r"^```(yaml|python|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LATER = re.compile(r"# (\d+) seconds later")
VARYING = [
    (re.compile(r"started .*"), "started"),
    (re.compile(r"\s+"), " "),
]
SET_UP = ("make ", "cd ", "mkdir ", "export PATH")
"""The commands at the top of the page, which the test environment makes unnecessary."""

PROGRAM = Path(sys.executable).with_name("workflow-engine")
OTHER_PROGRAMS = os.pathsep.join(
    folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != PROGRAM.parent
)
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith("WORKFLOW_")}
OUTSIDE["PATH"] = OTHER_PROGRAMS
"""The environment of a terminal that has just been opened: without the programs of the environment, too."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that servers started by root can reach, too."""
    path = Path(tempfile.mkdtemp(prefix="first-node-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class Terminal:
    """The second terminal of the page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids: dict[str, str] = {}
        self._settings: list[str] = []

    def type(self, command: str, shown: str = "", timeout: float = 0) -> None:
        """Type a command repeatedly, for up to `timeout` seconds, until it prints the text of the page."""
        if command.startswith(". "):
            self._settings.append(command)
            return
        script = "\n".join([*self._settings, self._with_own_ids(command)])
        deadline = time.monotonic() + timeout
        while True:
            printed = self._run(script)
            self._ids |= dict(zip(ID.findall(shown), ID.findall(printed), strict=False))
            expected = comparable(self._with_own_ids(shown))
            if comparable(printed)[: len(expected)] == expected:
                return
            assert time.monotonic() < deadline, f"$ {command}\n{printed}"

    def _run(self, script: str) -> str:
        run = subprocess.run(
            ["sh", "-c", script],
            cwd=self._folder,
            env=OUTSIDE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return run.stdout

    def _with_own_ids(self, text: str) -> str:
        return ID.sub(lambda found: self._ids.get(found[0], found[0]), text)


def comparable(text: str) -> list[str]:
    lines = text.splitlines()
    for pattern, replacement in VARYING:
        lines = [pattern.sub(replacement, line) for line in lines]
    return [line.strip() for line in lines if line.strip()]


class Development:
    """`workflow-engine dev` in the first terminal."""

    def __init__(self, command: str, folder: Path) -> None:
        self._log = folder / "dev.log"
        program, *arguments = shlex.split(command)
        assert program == "workflow-engine"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, *arguments],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**OUTSIDE, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                # Where a shell runs the tests in its background, they and their children ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )

    def wait_until_it_says(self, what: str) -> None:
        deadline = time.monotonic() + 60
        while what not in self._log.read_text():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def end(self, signum: signal.Signals) -> int:
        """End it like Ctrl-C. Return its exit status, once all its children are gone."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signum)
        status = self.process.wait(timeout=60)
        assert psutil.wait_procs(family, timeout=10)[1] == []
        return status


class Reader:
    """A reader who types the page."""

    def __init__(self, folder: Path) -> None:
        self.terminal = Terminal(folder)
        self.development: Development | None = None
        self._folder = folder

    def save(self, block: str) -> None:
        """Write a file, if the first line of the block names one."""
        first_line = block.partition("\n")[0]
        if not first_line.startswith("# "):
            return
        file = self._folder / first_line.removeprefix("# ")
        is_change = file.exists()
        file.write_text(block)
        if self.development is not None and is_change and file.suffix == ".py":
            self.development.wait_until_it_says("The worker is ready again.")

    def type_all(self, block: str) -> None:
        timeout = 0
        for part in re.split(r"^(?:\$ |(?=# \d))", block, flags=re.MULTILINE):
            command, _, shown = part.partition("\n")
            if command.startswith("workflow-engine dev"):
                self.development = Development(command, self._folder)
                self.development.wait_until_it_says("Ready.")
            elif LATER.fullmatch(command):
                timeout = 30
            elif command and not command.startswith(SET_UP):
                self.terminal.type(command, shown, timeout)


@pytest.mark.timeout(300)  # two sessions of it, and a reload
def test_the_page_of_the_first_node_can_be_typed_from_its_top_to_its_end(folder: Path) -> None:
    reader = Reader(folder)
    try:
        for kind, block in BLOCK.findall((ROOT / "docs/first-node.md").read_text()):
            if kind == "console":
                reader.type_all(block)
            else:
                reader.save(block)
    finally:
        assert reader.development is not None
        status = reader.development.end(signal.SIGINT)
    assert status == 0

    again = Development("workflow-engine dev parcels --no-flower", folder)
    try:
        again.wait_until_it_says("Ready.")
        reader.terminal.type("workflow-engine list --status COMPLETED | grep -c ' parcel '", "2\n")
    finally:
        assert again.end(signal.SIGTERM) == 128 + signal.SIGTERM
