"""The team's project as the present one, and the canvases that its tasks can form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery, current_app

from support import shop


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    """Make the team's app the current one, as it is in its worker and in its producers."""
    before: Celery = current_app._get_current_object()
    shop.app.set_current()
    shop.app.finalize()
    shop.calls.clear()
    yield
    before.set_current()
