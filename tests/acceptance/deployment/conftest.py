"""The wheel, built once, and what it is without extras."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.installation import Installation, build_wheel, copy_sources


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    copy_sources(source)
    return build_wheel(source, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def least(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Install the wheel without extras."""
    return Installation(tmp_path_factory.mktemp("least"), wheel)
