"""`workflow-engine dev` touches no folder with other files in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command_line import run


def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_text("build/\n")
    mode = tmp_path.stat().st_mode

    result = run("dev", "--folder", ".")

    assert result.exit_code == 1
    assert "name another folder" in result.output
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]
    assert (tmp_path / ".gitignore").read_text() == "build/\n"
    assert tmp_path.stat().st_mode == mode
