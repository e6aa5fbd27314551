"""Commands that run in this process use the servers of the test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _commands_use_the_servers(commands_use_the_servers: None) -> None:
    """Set the servers first of all, so that other fixtures may run commands too."""
