"""The command line can be read and typed on any terminal, with the characters that it has."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import workflow_engine
from workflow_engine.cli import COMMANDS, main
from workflow_engine.cli.drawing.execution_drawing import MARKS

NAMES = [name for section in COMMANDS.values() for name in section]
DEFINITION = """
id: greeting
name: Grüße
nodes:
  - {id: asked, type: trigger, subType: manual, config: {schema: {const: Zoë}}}
  - {id: greet, type: action, subType: größer, label: "Straße →"}
edges:
  - {source: asked, target: greet}
"""
ENVIRONMENTS = [
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},  # ASCII, taken literally
    {"PYTHONIOENCODING": "latin-1"},
]


def printed(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: str) -> str:
    """Return what a command prints on a terminal with this character set."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as end:
        main.main(list(arguments), prog_name="workflow-engine")
    assert end.value.code == 0
    stream.flush()
    content = stream.buffer
    assert isinstance(content, io.BytesIO)
    return content.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(name: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, encoding, name, "--help").startswith(f"Usage: workflow-engine {name}")


def test_an_ellipsis_becomes_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "FILE..." in printed(monkeypatch, "latin-1", "validate", "--help")
    assert "FILE…" in printed(monkeypatch, "utf-8", "validate", "--help")


def test_the_signs_of_statuses_differ_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    printed(monkeypatch, "ascii", "--help")

    drawn = [sign.encode("ascii", "drawn-with-ascii").decode("ascii") for sign in MARKS.values()]

    assert len(set(drawn)) == len(MARKS)
    assert {len(sign) for sign in drawn} == {1}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_definitions_are_utf_8_in_every_locale(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "greeting.yaml").write_text(DEFINITION, encoding="utf-8")

    program = Path(sys.executable).with_name("workflow-engine")
    run = subprocess.run(
        [program, "validate", "greeting.yaml"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )

    assert (run.returncode, run.stderr) == (1, b"")
    assert b"1 problem" in run.stdout


def test_no_file_is_read_or_written_in_the_locale_s_character_set() -> None:
    """Scripts, migrations and definitions have other characters than ASCII."""
    without = [
        f"{file.name}:{call.lineno}"
        for file in Path(workflow_engine.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and _is_of_text(call) and not _names_its_encoding(call)
    ]

    assert without == []


def _is_of_text(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", "") or getattr(call.func, "id", "")
    return name in {"read_text", "write_text"} or ast.unparse(call.func) == "open"


def _names_its_encoding(call: ast.Call) -> bool:
    return "encoding" in {keyword.arg for keyword in call.keywords}
