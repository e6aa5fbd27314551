"""What every page does: sign-on, headers, polling, who acts, and errors in words.

Flower's own handler checks the sign-on. Where Flower has none, its pages take every request, so what changes
something is off there unless a setting turns it on.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import tornado.web
from flower.views import BaseHandler

from workflow_engine.definition.body import SEPARATOR
from workflow_engine.errors import (
    BackingServiceUnavailable,
    ExecutionNotFound,
    InvalidValue,
    SettingsInvalid,
    WorkflowNotFound,
)
from workflow_engine.flower.assets import asset_version
from workflow_engine.flower.desk import Answers, Desk
from workflow_engine.flower.drawing.json_tree import json_tree
from workflow_engine.presentation import phrases

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: scripts and styles are files of this host. Bootstrap has pictures in `data:`."""

T = TypeVar("T")


class Page(BaseHandler):
    """A page of the engine inside Flower."""

    active_tab = "executions"

    def initialize(self, desk: Desk) -> None:
        self.desk = desk
        self._tag: str | None = None

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Cache-Control", "no-store")

    # -- who may do what -----------------------------------------------------------------------------------

    def check_xsrf_cookie(self) -> None:
        """Refuse what another site has sent, also where Flower has no sign-on and checks nothing itself."""
        site = self.request.headers.get("Sec-Fetch-Site")
        origin = self.request.headers.get("Origin")
        if site and site != "same-origin":
            raise tornado.web.HTTPError(HTTPStatus.FORBIDDEN, "Cross-site request forbidden")
        if origin and urlsplit(origin).netloc != self.request.host:
            raise tornado.web.HTTPError(HTTPStatus.FORBIDDEN, "Cross-origin request forbidden")
        tornado.web.RequestHandler.check_xsrf_cookie(self)

    @property
    def read_only_because(self) -> str | None:
        """Why nothing can be changed from here; None if it can."""
        options, is_read_only = self.application.options, self.desk.settings.pages_read_only
        if options.read_only:
            return "Flower runs with --read-only."
        if is_read_only:
            return "WORKFLOW_ENGINE_PAGES_READ_ONLY is set."
        if is_read_only is None and not (options.auth or options.basic_auth):
            return (
                "Flower has no sign-on. Start it with --basic-auth or --auth, "
                "or set WORKFLOW_ENGINE_PAGES_READ_ONLY=false."
            )
        return None

    def refuse_if_read_only(self) -> None:
        """Raise an error for the page if nothing may be changed from here."""
        if (reason := self.read_only_because) is not None:
            raise tornado.web.HTTPError(HTTPStatus.FORBIDDEN, "%s", f"Actions are off: {reason}")

    @property
    def actor(self) -> str:
        """The name under which actions are recorded: that of Flower's user."""
        if isinstance(self.current_user, str):
            return self.current_user
        scheme, _, credentials = self.request.headers.get("Authorization", "").partition(" ")
        # Without its option Flower has not checked them.
        if scheme == "Basic" and self.application.options.basic_auth:
            return base64.b64decode(credentials).decode().partition(":")[0]
        return "flower"

    # -- asking the engine ---------------------------------------------------------------------------------

    async def ask(self, question: Callable[[Answers], T]) -> T:
        """Call a function with the engine's services in a thread. Turn the engine's errors into pages."""
        try:
            return await self.desk.ask(self.application.capp, question)
        except (ExecutionNotFound, WorkflowNotFound) as error:
            raise tornado.web.HTTPError(HTTPStatus.NOT_FOUND, "%s", str(error)) from error
        except InvalidValue as error:
            raise tornado.web.HTTPError(HTTPStatus.BAD_REQUEST, "%s", str(error)) from error
        except (BackingServiceUnavailable, SettingsInvalid) as error:
            raise tornado.web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, "%s", str(error)) from error

    async def attempt(self, deed: Callable[[Answers], T]) -> T:
        """Call a function that changes something. Raises the engine's errors as they are, for the form."""
        return await self.desk.ask(self.application.capp, deed)

    def is_unchanged(self, *state: object) -> bool:
        """Answer a poll with 304 if the page would show this state again."""
        content = repr((state, asset_version(), self.read_only_because, self.actor)).encode()
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self.set_header("Etag", self._tag)
        if self.check_etag_header():
            self.set_status(HTTPStatus.NOT_MODIFIED)
            return True
        return False

    def compute_etag(self) -> str | None:
        """Return the tag of the state that is shown; a page that does not change has none."""
        return self._tag

    # -- arguments -----------------------------------------------------------------------------------------

    def text(self, name: str, default: str = "") -> str:
        """Return an argument of the address as it was given; Flower's own method would escape it."""
        return str(self.get_query_argument(name, default))

    def number(self, name: str) -> int | None:
        """Return an argument of the address that is a whole number; None if it is none."""
        text = self.text(name)
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None

    # -- writing the page ----------------------------------------------------------------------------------

    def show(self, template: str, **values: Any) -> None:
        """Write a page."""
        self.render(
            template,
            active_tab=self.active_tab,
            asset=self.asset_url,
            link=self.link,
            words=phrases,
            now=datetime.now(UTC),
            json_tree=json_tree,
            read_only_because=self.read_only_because,
            tag=self._tag or "",
            owner=lambda workflow_id: workflow_id.partition(SEPARATOR)[0],
            **values,
        )

    def asset_url(self, name: str) -> str:
        """Return the address of a file of the pages."""
        return f"{self.reverse_url('engine_asset', name)}?v={asset_version()}"

    def link(self, page: str, *parts: object, **query: object) -> str:
        """Return the address of a page, with those arguments that are not empty."""
        given = {name: value for name, value in query.items() if value not in (None, "", ())}
        address = self.reverse_url(page, *map(str, parts))
        return f"{address}?{urlencode(given, doseq=True)}" if given else str(address)

    def write_error(self, status_code: int, **details: Any) -> None:
        """Write an error: what the engine says, or Flower's page for a bug."""
        error = details.get("exc_info", (None, None, None))[1]
        if status_code not in (400, 403, 404, 409, 503) or not isinstance(error, tornado.web.HTTPError):
            super().write_error(status_code, **details)
            return
        if not hasattr(self, "_current_user"):
            self.current_user = None
        try:
            is_signed_on = bool(self.current_user)
        except tornado.web.HTTPError:
            is_signed_on = False
        if not is_signed_on:
            super().write_error(status_code, **details)
            return
        message = error.log_message % error.args if error.log_message and error.args else error.log_message
        self.show("engine_error.html", title=HTTPStatus(status_code).phrase, message=message or "")
