"""Nodes that wait have not been woken when a test begins."""

from __future__ import annotations

import pytest

from support.nodes.patient import wakes


@pytest.fixture(autouse=True)
def _no_wakes_yet() -> None:
    wakes.clear()
