"""Each test file makes one promise in one sentence, and docs/promises.md lists them with their cases."""

from __future__ import annotations

import os
import subprocess
import sys

from support.promises import DOCUMENT, promise
from support.repository import ROOT, TESTS

LONGEST = 110


def test_each_file_begins_with_its_promise() -> None:
    promises = {file: promise(file) for file in TESTS.rglob("test_*.py")}

    assert promises
    assert [file for file, sentence in promises.items() if not sentence.endswith(".")] == []
    assert [file for file, sentence in promises.items() if len(sentence) > LONGEST] == []


def test_the_document_has_every_promise_and_the_number_of_its_cases() -> None:
    command = [sys.executable, "-m", "support.promises"]
    # Without options of the run that this test is part of: they could leave cases out.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(TESTS)
    written = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)

    assert DOCUMENT.read_text(encoding="utf-8") == written.stdout, "`make promises` brings it up to date"
