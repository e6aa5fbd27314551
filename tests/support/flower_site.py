"""A Flower with the pages, in a thread of this process, as a browser and a script see it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import celery
import httpx
from flower import urls
from flower.app import Flower
from flower.options import default_options
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets

from workflow_engine.engine.assembly import Engine
from workflow_engine.flower.desk import Desk
from workflow_engine.flower.installation import install
from workflow_engine.settings import Settings

ANN = ("ann", "secret")
PATIENCE = 60.0


@dataclass
class Site:
    """A running Flower. Requests are Ann's unless another user, or none, is named."""

    address: str
    application: Flower

    def get(self, path: str, *, user: tuple[str, str] | None = ANN, **options: Any) -> httpx.Response:
        """Return the answer to a GET."""
        return httpx.get(self.address + path, auth=user, timeout=PATIENCE, **options)

    def post(
        self,
        path: str,
        data: Mapping[str, str],
        *,
        user: tuple[str, str] | None = ANN,
        headers: Mapping[str, str] | None = None,
        with_token: bool = True,
    ) -> httpx.Response:
        """Return the answer to a form that was filled in on a page, with its token."""
        with httpx.Client(auth=user, base_url=self.address, timeout=PATIENCE) as browser:
            fields = dict(data)
            if with_token:
                browser.get(path)
                fields["_xsrf"] = browser.cookies["_xsrf"]
            return browser.post(path, data=fields, headers=dict(headers or {}))


@contextmanager
def flower_site(
    engine: Engine, *, app: Any = None, settings: Settings | None = None, **options: Any
) -> Iterator[Site]:
    """Run Flower with the pages until the block ends. `options` are Flower's."""
    handlers, kept = list(urls.handlers), dict(urls.settings)
    given = SimpleNamespace(**{**default_options.as_dict(), "basic_auth": [":".join(ANN)], **options})
    started = threading.Event()
    running: dict[str, Any] = {}

    def serve() -> None:
        asyncio.set_event_loop(asyncio.new_event_loop())
        loop = IOLoop.current()
        install(Desk(settings or engine.settings, engine))
        application = Flower(
            options=given,
            capp=app or celery.Celery("pages", broker="memory://"),
            events=SimpleNamespace(state=SimpleNamespace(tasks={}, workers={}, counter={})),
            io_loop=loop,
            **{**urls.settings, "cookie_secret": "of a test"},
        )
        server = HTTPServer(application)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        running.update(loop=loop, application=application, port=sockets[0].getsockname()[1])
        started.set()
        loop.start()
        server.stop()
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        assert started.wait(10), "Flower has not started"
        yield Site(f"http://127.0.0.1:{running['port']}", running["application"])
    finally:
        running["loop"].add_callback(running["loop"].stop)
        thread.join(10)
        urls.handlers[:] = handlers
        urls.settings.clear()
        urls.settings.update(kept)
