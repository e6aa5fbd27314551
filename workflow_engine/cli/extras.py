"""Packages that some commands need and that only an extra of the distribution installs."""

from __future__ import annotations

from importlib.util import find_spec

from workflow_engine import DISTRIBUTION
from workflow_engine.errors import ExtraMissing


def require_flower(instead: str = "") -> None:
    """Raise `ExtraMissing` if Flower is not installed; `instead` is what else the user can do."""
    if find_spec("flower") is None:
        raise ExtraMissing("Flower", f"{DISTRIBUTION}[demo]", instead)
