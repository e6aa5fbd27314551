"""Connections whose address was checked, and reads and writes that end when their call has to.

A name is resolved once for each connection, and one of the addresses that was checked is dialled. So a name
that means another address a moment later cannot lead elsewhere, and no spelling of an address matters. The
name stays what TLS verifies and what the `Host` header says.

httpcore2 passes the `timeout` of a request on to the functions of this module as it is. It is a `Call` here,
since a limit for each read would let a server that sends one byte a second hold a call for days. Blocking
is done in slices: an exception that another thread raises in this one is delivered between two of them.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from workflow_engine.addresses.reachable import Address, ReachableHosts, address_of
from workflow_engine.nodes.action.http.failure import (
    ADDRESS_REFUSED,
    CONNECTION_FAILED,
    INTERRUPTED,
    INVALID_REQUEST,
    NAME_NOT_FOUND,
    TIMEOUT,
    TLS_FAILED,
    CallFailed,
)

SLICE = 0.5
"""Seconds for which a thread blocks at most."""

_IN_PROGRESS = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY)


class Call:
    """One call: when it has to end, and how far it has come."""

    def __init__(self, seconds: float, is_unwanted: Callable[[], bool] = lambda: False) -> None:
        self.seconds = seconds
        self.has_dialled = False
        """True if the present request has a connection of its own, and not one that was open already."""
        self.has_received = False
        """True if something of the present response has arrived."""
        self._deadline = time.monotonic() + seconds
        self._is_unwanted = is_unwanted
        self._next_look = 0.0

    def slice(self) -> float:
        """Return the seconds for which to block now.

        Raises CallFailed if the time is up, or if the execution does not want the result any more.
        """
        return min(SLICE, self.left())

    def left(self) -> float:
        """Return the seconds until the call has to end. Raises CallFailed as `slice` does."""
        now = time.monotonic()
        if now >= self._deadline:
            raise CallFailed(TIMEOUT, f"no complete response within {self.seconds:g} s")
        if now >= self._next_look:
            self._next_look = now + SLICE
            if self._is_unwanted():
                raise CallFailed(INTERRUPTED, "the call was given up: its execution goes on without it")
        return self._deadline - now


@dataclass(frozen=True)
class Backend:
    """Opens the connections of a pool: the network backend of httpcore2."""

    allowed: ReachableHosts
    allow_private: bool

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: Any = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        call: Call = timeout
        call.has_dialled = True
        targets = self._permitted(host, port, call)
        problem: OSError | None = None
        for index, (family, target) in enumerate(targets):
            until = time.monotonic() + call.left() / (len(targets) - index)
            try:
                return Stream(_dial(family, target, call, until))
            except OSError as error:
                problem = error
        reason = problem.strerror if problem is not None and problem.strerror else problem
        is_timeout = problem is not None and problem.errno == errno.ETIMEDOUT
        raise CallFailed(
            TIMEOUT if is_timeout else CONNECTION_FAILED, f"cannot connect to {host}, port {port}: {reason}"
        )

    def _permitted(self, host: str, port: int, call: Call) -> list[tuple[int, Any]]:
        """Return family and address of what may be dialled for this host. Raises CallFailed."""
        found = _resolve(host, port, call)
        if self.allowed.has_name(host):
            return found
        refusals: dict[str, str] = {}
        permitted: list[tuple[int, Any]] = []
        for family, target in found:
            address: Address = address_of(target[0])
            if (refusal := self.allowed.refusal(address, self.allow_private)) is None:
                permitted.append((family, target))
            else:
                refusals[str(address)] = refusal
        if not permitted:
            addresses = ", ".join(f"{address}, {what}" for address, what in list(refusals.items())[:3])
            raise CallFailed(
                ADDRESS_REFUSED,
                f"{host!r:.100} is {addresses}; for a private address set `allowPrivate: true`, or list it "
                "in WORKFLOW_ENGINE_API_CALL_ALLOW of the workers",
            )
        return permitted


def _resolve(host: str, port: int, call: Call) -> list[tuple[int, Any]]:
    """Return family and address of each address of a host, in the system's order. Raises CallFailed.

    A thread of its own asks, because nothing interrupts the system's resolver.
    """
    try:
        literal = address_of(host)
    except ValueError:
        pass
    else:
        family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
        return [(family, (str(literal), port))]
    replies: list[Any] = []
    is_over = threading.Event()

    def ask() -> None:
        try:
            replies.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            replies.append(error)
        finally:
            is_over.set()

    threading.Thread(target=ask, name="api-call-resolver", daemon=True).start()
    while not is_over.wait(call.slice()):
        pass
    reply = replies[0] if replies else OSError("the resolver ended without a reply")
    if isinstance(reply, OSError):
        raise CallFailed(NAME_NOT_FOUND, f"no address of {host!r:.100} was found: {reply.strerror or reply}")
    if isinstance(reply, ValueError):
        raise CallFailed(INVALID_REQUEST, f"{host!r:.100} is no host name")
    return list(dict.fromkeys((family, target) for family, _, _, _, target in reply))


def _dial(family: int, target: Any, call: Call, until: float) -> socket.socket:
    """Connect to an address. Raises OSError, also if it takes longer than `until`, and CallFailed."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(0)
        status = sock.connect_ex(target)
        while status in _IN_PROGRESS:
            if _is_ready(sock, select.POLLOUT, call.slice()):
                status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            elif time.monotonic() > until:
                status = errno.ETIMEDOUT
        if status:
            raise OSError(status, os.strerror(status))
    except BaseException:
        sock.close()
        raise
    return sock


def _is_ready(sock: socket.socket, event: int, seconds: float) -> bool:
    """Return whether a socket can be read or written without blocking, within some seconds."""
    poll = select.poll()  # unlike `select`, for any number of open files
    poll.register(sock, event)
    return bool(poll.poll(seconds * 1_000))


class Stream:
    """An open connection: the network stream of httpcore2."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: Any = None) -> bytes:
        call: Call = timeout
        while True:
            self._sock.settimeout(call.slice())
            try:
                data = self._sock.recv(max_bytes)
            except TimeoutError:
                continue
            except OSError as error:
                raise CallFailed(CONNECTION_FAILED, f"the connection broke: {error}") from None
            call.has_received = call.has_received or bool(data)
            return data

    def write(self, buffer: bytes, timeout: Any = None) -> None:
        from httpcore2 import WriteError

        call: Call = timeout
        left = memoryview(buffer)
        while left:
            self._sock.settimeout(call.slice())
            try:
                left = left[self._sock.send(left) :]
            except TimeoutError:
                continue
            except OSError as error:
                # The server may have responded before it had read everything: httpcore2 reads on.
                raise WriteError(error) from error

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: Any = None
    ) -> Stream:
        call: Call = timeout
        try:
            self._sock.settimeout(call.left())
            return Stream(ssl_context.wrap_socket(self._sock, server_hostname=server_hostname))
        except TimeoutError:
            self.close()
            raise CallFailed(TIMEOUT, f"no TLS handshake within {call.seconds:g} s") from None
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            self.close()
            raise CallFailed(TLS_FAILED, f"TLS with {server_hostname!r:.100} failed: {error}") from None
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object" and isinstance(self._sock, ssl.SSLSocket):
            return self._sock
        if info == "is_readable":
            return self._sock.fileno() < 0 or _is_ready(self._sock, select.POLLIN, 0)
        return None
