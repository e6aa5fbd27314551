"""`python -m support.promises`: what each test file promises, with the number of its cases, as a document.

The promise of a file is the first sentence of its docstring.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from support.repository import ROOT, TESTS

DOCUMENT = ROOT / "docs" / "promises.md"
TIERS = ("unit", "simulation", "integration", "acceptance", "services", "browser")
"""From tests that need no server to those that start workers, more servers and a browser."""

HEAD = """\
# What the tests promise

Each file of [`tests/`](../tests) keeps one promise, which is the first sentence of its docstring; the folders
say what the promises are about. A number counts cases, those that only `make long` runs included.

`make promises` writes this page, and a test compares it with the files.
"""


class Cases:
    """A plugin of pytest that counts the cases of each file."""

    def __init__(self) -> None:
        self.of_file: Counter[Path] = Counter()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.of_file.update(item.path for item in session.items)


def collected() -> Counter[Path]:
    """Return the number of cases of each file of the tests. Raise RuntimeError if one cannot be imported."""
    cases, output = Cases(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = pytest.main(["--collect-only", "-q", f"--rootdir={ROOT}", str(TESTS)], plugins=[cases])
    if status != pytest.ExitCode.OK:
        raise RuntimeError(output.getvalue())
    return cases.of_file


def document(cases: Counter[Path]) -> str:
    """Return the page: a chapter for each tier, and a table for each of its folders."""
    return "\n".join([HEAD, *(line for tier in TIERS for line in _chapter(tier, cases))])


def promise(file: Path) -> str:
    """Return the first sentence of a test file's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=\.)\s", docstring, maxsplit=1)[0].replace("\n", " ")


def _chapter(tier: str, cases: Counter[Path]) -> Iterator[str]:
    files = sorted(file for file in cases if file.is_relative_to(TESTS / tier))
    yield f"## {tier}: {sum(cases[file] for file in files):,}\n"
    for folder, in_folder in groupby(files, lambda file: file.parent):
        yield from _table(folder, list(in_folder), cases)


def _table(folder: Path, files: Sequence[Path], cases: Counter[Path]) -> Iterator[str]:
    place = folder.relative_to(TESTS).as_posix()
    yield f"| [`{place}`](../tests/{place}) | promise | cases |"
    yield "|---|---|--:|"
    for file in files:
        name = file.stem.removeprefix("test_")
        yield f"| [{name}](../tests/{place}/{file.name}) | {promise(file)} | {cases[file]:,} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(document(collected()).rstrip() + "\n")
