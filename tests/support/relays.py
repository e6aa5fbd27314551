"""Connections to a server that it does not offer itself: encrypted, or by a socket in the file system.

A relay listens there and passes on to the server what it is sent, so that any Redis or Postgres can be
reached in these ways, however it was built.
"""

from __future__ import annotations

import random
import selectors
import socket
import ssl
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK = 1 << 16
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""The request of a Postgres client before it encrypts."""


class Relay:
    """Passes each connection on to the server at `upstream`, a URL."""

    def __init__(self, upstream: str, listener: socket.socket) -> None:
        address = urlsplit(upstream)
        assert address.hostname is not None
        assert address.port is not None
        self._upstream = (address.hostname, address.port)
        self._listener = listener
        self.refusals: list[Exception] = []
        """Why clients were turned away, or turned away themselves."""
        self.welcomed = 0
        """How many clients were let through."""
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def welcome(self, client: socket.socket) -> socket.socket:
        """Return the client's connection as it can be read. Raises `OSError` if it is refused."""
        return client

    def delay(self) -> None:
        """Hold up what has arrived before it is passed on."""

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="relay", daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            raw.settimeout(10)
            client = self.welcome(raw)
        except OSError as error:
            self.refusals.append(error)
            raw.close()
            return
        self.welcomed += 1
        with (
            client,
            socket.create_connection(self._upstream) as server,
            selectors.DefaultSelector() as either,
            suppress(OSError),
        ):
            either.register(client, selectors.EVENT_READ)
            either.register(server, selectors.EVENT_READ)
            while True:
                either.select()
                self.delay()
                if not (_passed(client, server) and _passed(server, client)):
                    return


def _passed(source: socket.socket, target: socket.socket) -> bool:
    """Pass on what has arrived. Return False at the end of the connection."""
    while True:
        source.setblocking(False)
        try:
            content = source.recv(CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        finally:
            source.settimeout(10)
        if not content:
            return False
        target.sendall(content)


class TlsRelay(Relay):
    """A port of 127.0.0.1 that speaks TLS, as `context` says."""

    def __init__(self, upstream: str, context: ssl.SSLContext) -> None:
        self._context = context
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        super().__init__(upstream, listener)

    def welcome(self, client: socket.socket) -> socket.socket:
        if client.recv(8, socket.MSG_PEEK) == SSL_REQUEST:
            client.recv(8)
            client.sendall(b"S")
        return self._context.wrap_socket(client, server_side=True)


class LossyRelay(Relay):
    """A port of 127.0.0.1 behind a network that loses packets: TCP sends them again, ever later."""

    RETRANSMISSION = 0.2
    """Seconds after which Linux sends a packet again at first; doubled each time."""
    LARGEST = 1.6

    def __init__(self, upstream: str, loss: float, seed: int = 0) -> None:
        self._loss = loss
        self._random = random.Random(seed)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        super().__init__(upstream, listener)

    def delay(self) -> None:
        wait = self.RETRANSMISSION
        while self._random.random() < self._loss:
            time.sleep(wait)
            wait = min(2 * wait, self.LARGEST)


class SocketRelay(Relay):
    """A socket in the file system."""

    def __init__(self, upstream: str, path: Path) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        super().__init__(upstream, listener)
