"""A wire between the engine and a server, on which a test counts the real traffic.

It is a TCP proxy. Counting at the socket sees what no driver, pool or transaction can hide: a BEGIN, a
health check, a script that is sent again. A round trip is counted each time the client sends after the
server has sent, so several requests sent at once are one.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CHUNK = 1 << 16


@dataclass
class Traffic:
    """The traffic while it was recorded."""

    requests: list[bytes] = field(default_factory=list)
    """Redis: the arguments of each command, joined by blanks. Postgres: type and content of each message."""
    round_trips: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0

    @property
    def names(self) -> list[str]:
        """The first word of each request, in upper case."""
        return [request.split(maxsplit=1)[0].decode().upper() for request in self.requests]


class Wire:
    """Listens on a port of its own and passes everything on. `url` leads through it to `upstream`."""

    def __init__(self, upstream: str, read_requests: Callable[[bytearray], list[bytes]]) -> None:
        address = urlsplit(upstream)
        assert address.hostname is not None
        assert address.port is not None
        self._upstream = (address.hostname, address.port)
        self._read_requests = read_requests
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._guard = threading.Lock()
        self._open: list[socket.socket] = []
        self._traffic = Traffic()
        port = self._listener.getsockname()[1]
        login = address.netloc.rpartition("@")[0]
        self.url = address._replace(netloc=f"{login}{'@' if login else ''}127.0.0.1:{port}").geturl()
        threading.Thread(target=self._accept, name="wire", daemon=True).start()

    @contextmanager
    def recorded(self) -> Iterator[Traffic]:
        """Record the traffic of the block. At its end the client has all replies, so nothing is missing."""
        with self._guard:
            self._traffic = traffic = Traffic()
        yield traffic
        with self._guard:
            self._traffic = Traffic()

    def hang_up(self) -> None:
        """End all connections, and take new ones."""
        ends, self._open = self._open, []
        _close(ends)

    def close(self) -> None:
        self._listener.close()
        _close(self._open)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += (client, server)
                connection = _Connection(client, server)
                for relay in (self._pass_requests, self._pass_answers):
                    threading.Thread(target=relay, args=(connection,), daemon=True).start()

    def _pass_requests(self, connection: _Connection) -> None:
        pending = bytearray()
        with suppress(OSError):
            while chunk := connection.client.recv(CHUNK):
                pending += chunk
                with self._guard:
                    self._traffic.requests += self._read_requests(pending)
                    self._traffic.bytes_sent += len(chunk)
                    self._traffic.round_trips += connection.server_spoke_last
                    connection.server_spoke_last = False
                connection.server.sendall(chunk)
        connection.end()

    def _pass_answers(self, connection: _Connection) -> None:
        with suppress(OSError):
            while chunk := connection.server.recv(CHUNK):
                with self._guard:
                    self._traffic.bytes_received += len(chunk)
                    connection.server_spoke_last = True
                connection.client.sendall(chunk)
        connection.end()


def _close(ends: list[socket.socket]) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@dataclass
class _Connection:
    client: socket.socket
    server: socket.socket
    server_spoke_last: bool = True

    def end(self) -> None:
        for side in (self.client, self.server):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def read_postgres_messages(pending: bytearray) -> list[bytes]:
    """Take the complete messages off the front: a type byte, a length that counts itself, the content.

    Only what opens a connection has no type byte; its first byte is then that of a length, which is zero.
    See "Message Flow" and "Message Formats" in the documentation of Postgres' frontend/backend protocol.
    """
    messages = []
    while len(pending) >= 5:
        has_type = pending[0] != 0
        (length,) = struct.unpack_from("!I", pending, has_type)
        end = has_type + length
        if len(pending) < end:
            break
        kind = bytes(pending[:1]) if has_type else b"startup"
        messages.append(kind + b" " + bytes(pending[has_type + 4 : end]).strip(b"\x00 \n"))
        del pending[:end]
    return messages


def read_redis_commands(pending: bytearray) -> list[bytes]:
    """Take the complete commands off the front: RESP arrays of bulk strings."""
    commands = []
    while (command := _first_command(pending)) is not None:
        arguments, end = command
        commands.append(b" ".join(arguments))
        del pending[:end]
    return commands


def _first_command(pending: bytearray) -> tuple[list[bytes], int] | None:
    arguments: list[bytes] = []
    count, at = _number_line(pending, 0, b"*")
    while at and len(arguments) < count:
        length, at = _number_line(pending, at, b"$")
        if not at or len(pending) < at + length + 2:
            return None
        arguments.append(bytes(pending[at : at + length]))
        at += length + 2
    return (arguments, at) if at else None


def _number_line(pending: bytearray, start: int, kind: bytes) -> tuple[int, int]:
    """Return the number behind `kind` at `start`, and the end of its line; 0 if it is incomplete."""
    if (end := pending.find(b"\r\n", start)) < 0:
        return 0, 0
    assert pending[start : start + 1] == kind, bytes(pending[start:end])
    return int(pending[start + 1 : end]), end + 2
