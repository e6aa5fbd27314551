"""The pages' own style sheet and script, as files: their policy allows neither within a page."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from tornado.web import StaticFileHandler

from workflow_engine.flower.desk import Desk

FOLDER = Path(__file__).with_name("static")


class Asset(StaticFileHandler):
    """A file of the pages."""

    def initialize(self, desk: Desk) -> None:  # type: ignore[override]
        super().initialize(str(FOLDER))

    def set_extra_headers(self, path: str) -> None:
        self.set_header("X-Content-Type-Options", "nosniff")


@functools.cache
def asset_version() -> str:
    """Return what changes with the content of the files, so that no browser uses older ones."""
    digest = hashlib.sha256()
    for file in sorted(FOLDER.iterdir()):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
