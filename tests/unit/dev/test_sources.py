"""A worker under development is restarted for a change of the team's files, and for no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workflow_engine.dev.sources import Sources


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for file in ("shop/nodes.py", "pricing.py", ".venv/lib.py", "env/pyvenv.cfg", "env/lib/site.py"):
        (tmp_path / "project" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / file).touch()
    return tmp_path / "project"


def later(file: Path) -> None:
    """Write a file so that its time differs, however fast the test is."""
    file.write_text("changed = True\n")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def test_files_that_are_written_made_or_removed_are_changes(project: Path) -> None:
    sources = Sources(project, ())
    assert sources.changed() == []

    later(project / "shop/nodes.py")
    (project / "shop/new.py").touch()
    (project / "pricing.py").unlink()

    assert sources.changed() == [project / name for name in ("pricing.py", "shop/new.py", "shop/nodes.py")]
    assert sources.changed() == []


def test_environments_hidden_folders_and_other_files_are_none(project: Path) -> None:
    sources = Sources(project, ())

    for name in (".venv/lib.py", "env/lib/site.py", "shop/notes.txt"):
        later(project / name)

    assert sources.changed() == []


def test_a_package_that_lies_elsewhere_is_watched_and_not_imported(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere" / "team_package_elsewhere"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    sources = Sources(project, ("team_package_elsewhere.nodes", "not_there_yet", "shop:app"))

    later(package / "nodes.py")

    assert sources.changed() == [package / "nodes.py"]
