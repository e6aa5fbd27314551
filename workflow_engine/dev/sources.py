"""Which of a team's files have changed since a worker read them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

NO_SOURCES = frozenset({"__pycache__", "node_modules", "site-packages"})


class Sources:
    """The Python files below a folder, and those of packages that lie elsewhere."""

    def __init__(self, folder: Path, modules: tuple[str, ...]) -> None:
        self._folder = folder
        self._packages = sorted({re.split("[.:]", module)[0] for module in modules if module})
        self._seen = self._look()

    def changed(self) -> list[Path]:
        """Return the files that were created, written or removed since the last call."""
        before, self._seen = self._seen, self._look()
        files = before.keys() | self._seen.keys()
        return sorted(file for file in files if before.get(file) != self._seen.get(file))

    def _look(self) -> dict[Path, tuple[int, int]]:
        seen = {}
        for file in self._files():
            try:
                facts = file.stat()
            except OSError:
                continue  # removed a moment ago, or a link to nothing
            seen[file] = (facts.st_mtime_ns, facts.st_size)
        return seen

    def _files(self) -> Iterator[Path]:
        yield from _python_files(self._folder)
        for package in self._packages:
            spec = PathFinder.find_spec(package)  # finds it, and imports nothing
            for place in (spec and spec.submodule_search_locations) or ():
                if not Path(place).is_relative_to(self._folder):
                    yield from _python_files(Path(place))


def _python_files(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        is_environment = "pyvenv.cfg" in files
        kept = [] if is_environment else [name for name in folders if not _is_aside(name)]
        folders[:] = kept  # where os.walk goes on
        if not is_environment:
            yield from (Path(place, name) for name in files if name.endswith(".py"))


def _is_aside(folder: str) -> bool:
    return folder.startswith(".") or folder in NO_SOURCES
