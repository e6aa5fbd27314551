"""Adds the pages to Flower: their handlers before its last one, and a loader for its templates.

Both are what Flower hands to Tornado when its application is made: the list of handlers and the settings.
Nothing of Flower is replaced.
"""

from __future__ import annotations

from typing import Any

from flower import urls
from tornado.web import url

from workflow_engine.flower.desk import Desk
from workflow_engine.flower.pages import PAGES
from workflow_engine.flower.template_loader import TemplateLoader


def install(desk: Desk | None = None) -> None:
    """Add the pages to Flower. A second call changes nothing."""
    if "template_loader" in urls.settings:
        return
    desk = desk or Desk()
    # Flower's last handler takes what no other does.
    urls.handlers[-1:-1] = [url(pattern, page, {"desk": desk}, name) for pattern, page, name in PAGES]
    settings: dict[str, Any] = urls.settings
    settings["template_loader"] = TemplateLoader(settings["template_path"])
