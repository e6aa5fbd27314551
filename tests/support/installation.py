"""The engine as people install it: its wheel, and virtual environments with no more than that asks for.

Without an index: the packages that the wheel requires are linked from the environment of the tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import Distribution, EntryPoint, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.repository import ROOT
from support.worker_processes import WorkerProcess
from workflow_engine import DISTRIBUTION

SOURCES = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "celeryconfig.py",
    "workflow_engine",
    "workers",
    "examples",
)
"""What a wheel is built of, and what of the checkout must not get into it."""

LEFT_TO_PIP = ("..", "__pycache__")
"""Where packages put files that are made for one environment."""

QUICK_AND_SMALL = ("--concurrency", "1", "--loglevel", "INFO", "--without-gossip", "--without-mingle")


def copy_sources(target: Path) -> None:
    """Copy the sources, because setuptools leaves folders beside what it builds."""
    target.mkdir(exist_ok=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)


def build_wheel(source: Path, target: Path) -> Path:
    """Build the wheel into an empty folder. Return its path."""
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(target), str(source))
    [path] = target.glob("*.whl")
    return path


def pip(*arguments: str) -> str:
    """Run pip. Return what it prints."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, timeout=100, stdout=subprocess.PIPE, text=True).stdout


class Installation:
    """A virtual environment with the wheel, these extras of it, and the packages that both require."""

    def __init__(self, folder: Path, wheel: Path, extras: Collection[str] = ()) -> None:
        self.programs = folder / "bin"
        self.packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        venv.create(folder, symlinks=True)
        self.pip("install", "--no-deps", "--no-index", str(wheel))
        [engine] = distributions(name=DISTRIBUTION, path=[str(self.packages)])
        for package in required_by(engine, extras):
            self._link(package)

    def pip(self, *arguments: str) -> str:
        """Run pip on the environment. Return what it prints."""
        return pip("--python", str(self.programs / "python"), *arguments)

    def run(self, command: Sequence[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs in a folder."""
        return subprocess.run(
            [str(self.programs / command[0]), *command[1:]],
            check=False,
            cwd=folder,
            env=self._environment(variables),
            capture_output=True,
            text=True,
            timeout=100,
        )

    @contextmanager
    def worker(self, app: str, folder: Path, *options: str, **variables: str) -> Iterator[WorkerProcess]:
        """Run a Celery worker of the app in a folder; it takes messages when the block begins."""
        command = [str(self.programs / "celery"), "-A", app, "worker", *QUICK_AND_SMALL, *options]
        process = WorkerProcess(app, command, folder, self._environment(variables))
        process.start()
        try:
            process.ready()
            yield process
        finally:
            process.kill_group(signal.SIGKILL)
            process.wait(10)

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": "", **variables}

    def _link(self, package: Distribution) -> None:
        names = {file.parts[0] for file in package.files or ()}
        for name in names.difference(LEFT_TO_PIP):
            (self.packages / name).symlink_to(Path(str(package.locate_file(name))))
        for entry in package.entry_points.select(group="console_scripts"):
            self._write_program(entry)

    def _write_program(self, entry: EntryPoint) -> None:
        python, program = self.programs / "python", self.programs / entry.name
        call = f"import sys\nfrom {entry.module} import {entry.attr}\nsys.exit({entry.attr}())\n"
        program.write_text(f"#!{python}\n{call}")
        program.chmod(0o755)


def required_by(engine: Distribution, extras: Collection[str]) -> list[Distribution]:
    """Return what the engine and some of its extras require, and what that requires in turn."""
    found = {DISTRIBUTION: engine}
    todo = [(DISTRIBUTION, extra) for extra in ("", *extras)]
    seen = set[tuple[str, str]]()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if name not in found:
            found[name] = distribution(name)
        for requirement in map(Requirement, found[name].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    return [package for name, package in found.items() if name != DISTRIBUTION]
