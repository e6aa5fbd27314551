"""An HTTP server in a thread, whose responses the test gives, byte by byte if it wants to."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Received:
    """A request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    port: int
    """The client's port: equal for requests on one connection."""
    write: Callable[[bytes], None] = field(repr=False, default=lambda data: None)
    """Writes bytes of the response as they are."""


@dataclass
class Reply:
    """A response; a body other than bytes is sent as JSON, and None is none."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about a client that went away, or that refused the certificate."""


class HttpServer:
    """Answers with what `answer` returns for a request; a `None` leaves the connection as it is, closed."""

    def __init__(self, answer: Callable[[Received], Reply | None] = lambda received: Reply()) -> None:
        self.answer = answer
        self.received: list[Received] = []
        self.is_over = threading.Event()
        """Set when the test ends; an answer that blocks has to look."""
        self._scheme = "http"
        self._server = _QuietServer(("127.0.0.1", 0), self._handler())

    def __enter__(self) -> HttpServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()

    def encrypted(self, context: ssl.SSLContext) -> HttpServer:
        self._scheme = "https"
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        return self

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{self._scheme}://{host}:{self.port}{path}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65_536  # a response in one packet
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                with suppress(ConnectionError):
                    super().handle_one_request()

            def _respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                port = int(self.client_address[1])
                received = Received(self.command, self.path, headers, body, port, self._write)
                owner.received.append(received)
                reply = owner.answer(received)
                if reply is None:
                    self.close_connection = True
                    return
                content = reply.body
                if content is None:
                    content = b""
                elif not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                    reply.headers.setdefault("Content-Type", "application/json")
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def _write(self, data: bytes) -> None:
                self.wfile.write(data)
                self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
            setattr(Handler, f"do_{method}", Handler._respond)
        return Handler
