"""A request, the redirects that it may follow, and the response as JSON can hold it.

Connections are kept open in one pool per process and per policy: a connection that a node with
`allowPrivate` has opened is out of reach of one without. There are no cookies, no proxies of the environment
and no log lines, all of which `httpx2.Client` would add.
"""

from __future__ import annotations

import base64
import codecs
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from workflow_engine.addresses.reachable import ReachableHosts
from workflow_engine.json_values import decode
from workflow_engine.nodes.action.http.failure import (
    CONNECTION_FAILED,
    HTTP_STATUS,
    INVALID_REQUEST,
    INVALID_RESPONSE,
    REDIRECT_REFUSED,
    TOO_LARGE,
    CallFailed,
)
from workflow_engine.nodes.action.http.sockets import Backend, Call

KEPT_CONNECTIONS = 100
"""Idle connections of one pool."""

KEEP_ALIVE = 4.0
"""Seconds for which an idle connection is used again; many servers close theirs after five."""

LARGEST_EXPLANATION = 8_192
"""Bytes of the body of an unexpected response that are kept."""

LONGEST_RETRY_AFTER = 86_400.0
"""Seconds to wait that a server can ask for."""

WITHOUT_HARM = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods that may be sent again when a connection that was kept open turns out to be closed."""

_KEPT_ELSEWHERE = frozenset({"accept", "accept-encoding", "content-type", "user-agent"})
"""Headers that follow a redirect to another origin."""

_JSON = re.compile(r"application/(?:[\w.+-]+\+)?json", re.IGNORECASE)
_TEXT = re.compile(
    r"text/|application/(?:[\w.+-]+\+)?(?:xml|javascript|x-www-form-urlencoded)", re.IGNORECASE
)
_SECONDS = re.compile(r"[0-9]{1,100}(?:\.[0-9]{1,100})?")
_CHARSET = re.compile(r"""charset=["']?([\w.:-]+)""", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """A request, ready to be sent; a redirect makes another one of it."""

    method: str
    url: Any
    """An `httpx2.URL`."""
    headers: tuple[tuple[str, bytes], ...]
    content: bytes = b""

    def shown(self) -> str:
        """Return method and URL for messages, without the query, which may be long or secret."""
        return f"{self.method} {str(self.url.copy_with(query=None, fragment=None))[:300]}"

    def redirected(self, location: str, status: int) -> Request:
        """Return the request that a redirect asks for. Raises CallFailed."""
        url = parse_url(location, self.url)
        if self.url.scheme == "https" and url.scheme != "https":
            raise CallFailed(REDIRECT_REFUSED, f"{self.shown()} redirects from https to http, to {url.host}")
        method, content, headers = self.method, self.content, self.headers
        if status == 303 or (status in (301, 302) and method == "POST"):
            method, content = "HEAD" if method == "HEAD" else "GET", b""
            headers = tuple(header for header in headers if header[0] != "content-type")
        if (url.scheme, url.host, url.port) != (self.url.scheme, self.url.host, self.url.port):
            headers = tuple(header for header in headers if header[0] in _KEPT_ELSEWHERE)
        return Request(method, url, headers, content)


def parse_url(text: str, base: Any = None) -> Any:
    """Return an absolute URL of HTTP as an `httpx2.URL`. Raises CallFailed."""
    import httpx2

    try:
        url = httpx2.URL(text) if base is None else base.join(text)
    except (httpx2.InvalidURL, TypeError, ValueError) as error:
        raise CallFailed(INVALID_REQUEST, f"the URL cannot be read: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise CallFailed(
            INVALID_REQUEST, f"{str(url)[:100]!r} is no URL that begins with http:// or https://"
        )
    if url.userinfo:
        raise CallFailed(INVALID_REQUEST, "a user or password in a URL is refused; use `auth`")
    if url.port is not None and not 0 < url.port <= 65_535:
        raise CallFailed(INVALID_REQUEST, f"there is no port {url.port}")
    return url


@dataclass(frozen=True)
class Response:
    """A response whose body was read."""

    status: int
    headers: dict[str, str]
    content: bytes

    def as_output(self) -> dict[str, Any]:
        """Return what later nodes read: JSON as a value, other text as text, anything else in Base64."""
        kind = self.headers.get("content-type", "")
        output: dict[str, Any] = {"status": self.status, "headers": self.headers, "body": None}
        if not self.content:
            return output
        if _JSON.match(kind):
            try:
                return {**output, "body": _json(self.content, kind)}
            except (LookupError, ValueError) as error:
                raise CallFailed(
                    INVALID_RESPONSE, f"the response says it is JSON, but is not: {error}", status=self.status
                ) from None
        text = _text(self.content, kind)
        if text is None:
            return {**output, "body": base64.b64encode(self.content).decode(), "encoding": "base64"}
        return {**output, "body": text}


def _json(content: bytes, kind: str) -> Any:
    """Return the value of a body of JSON. Raises ValueError, and LookupError for an unknown charset."""
    charset = _CHARSET.search(kind)
    text = content.decode(charset[1]).encode() if charset else content
    return decode(text.removeprefix(codecs.BOM_UTF8))


def _text(content: bytes, kind: str) -> str | None:
    """Return a body as text; None if it is none."""
    charset = _CHARSET.search(kind)
    errors = "replace" if _TEXT.match(kind) else "strict"
    try:
        text = content.decode(charset[1] if charset else "utf-8", errors)
    except (LookupError, UnicodeError):
        return None
    return None if "\0" in text else text


def exchange(
    request: Request,
    call: Call,
    *,
    backend: Backend,
    is_expected: Callable[[int], bool],
    max_bytes: int,
    redirects: int,
) -> Response:
    """Send a request and return the response that its redirects lead to. Raises CallFailed."""
    token = _is_ours.set(True)
    try:
        return _exchange(request, call, backend, is_expected, max_bytes, redirects)
    finally:
        _is_ours.reset(token)


def _exchange(
    request: Request,
    call: Call,
    backend: Backend,
    is_expected: Callable[[int], bool],
    max_bytes: int,
    redirects: int,
) -> Response:
    left = redirects
    while True:
        response = _send(request, call, backend, is_expected, max_bytes)
        location = response.headers.get("location")
        if location is None or response.status not in (301, 302, 303, 307, 308) or not redirects:
            break
        if not left:
            raise CallFailed(REDIRECT_REFUSED, f"{request.shown()} redirects more than {redirects} times")
        request, left = request.redirected(location, response.status), left - 1
    if not is_expected(response.status):
        raise _unexpected(request, response)
    return response


def _unexpected(request: Request, response: Response) -> CallFailed:
    try:
        body = response.as_output()["body"]
    except CallFailed:  # JSON that was cut
        body = response.content.decode(errors="replace").replace("\0", "")
    advice = ""
    if 300 <= response.status < 400 and "location" in response.headers:
        advice = "; to follow redirects, set `followRedirects`"
    return CallFailed(
        HTTP_STATUS,
        f"{request.shown()} returned {response.status}{advice}",
        status=response.status,
        retry_after=retry_after(response.headers),
        details={"headers": response.headers, "body": body},
    )


def retry_after(headers: Mapping[str, str], now: Callable[[], datetime] | None = None) -> float | None:
    """Return the seconds that the header `Retry-After` asks to wait, as a number or a date."""
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text) is not None:
        return min(float(text), LONGEST_RETRY_AFTER)
    moment, sent = _http_date(text), _http_date(headers.get("date", ""))
    if moment is None:
        return None
    # By the server's own clock, which may differ from ours.
    seconds = (moment - (sent or (now or _utc_now)())).total_seconds()
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# -- one request -----------------------------------------------------------------------------------------


def _send(
    request: Request, call: Call, backend: Backend, is_expected: Callable[[int], bool], max_bytes: int
) -> Response:
    from httpcore2 import NetworkError, ProtocolError, RemoteProtocolError

    attempts = 3 if request.method in WITHOUT_HARM else 1
    while True:
        attempts -= 1
        call.has_dialled = call.has_received = False
        pools = _pools()
        try:
            return _receive(pools.of(backend), request, call, is_expected, max_bytes)
        except CallFailed as failed:
            if failed.type != CONNECTION_FAILED or not _was_stale(call) or not attempts:
                raise
        except (RemoteProtocolError, NetworkError) as error:
            if not _was_stale(call) or not attempts:
                raise CallFailed(CONNECTION_FAILED, f"{request.shown()} failed: {error}") from None
        except ProtocolError as error:
            raise CallFailed(INVALID_REQUEST, f"{request.shown()} failed: {error}") from None
        except BaseException:
            # An interruption at any point may have left a connection or a lock of the pool behind.
            _forget(pools)
            raise


def _was_stale(call: Call) -> bool:
    """Return whether a connection failed that was kept open, before anything of the response came."""
    return not call.has_dialled and not call.has_received


def _receive(
    pool: Any, request: Request, call: Call, is_expected: Callable[[int], bool], max_bytes: int
) -> Response:
    import httpcore2

    url = request.url
    headers = [(b"host", url.netloc), *((name.encode(), value) for name, value in request.headers)]
    if request.content or request.method in ("POST", "PUT", "PATCH"):
        headers.append((b"content-length", str(len(request.content)).encode()))
    response = pool.handle_request(
        httpcore2.Request(
            request.method,
            httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=headers,
            content=request.content,
            extensions={"timeout": {"connect": call, "read": call, "write": call, "pool": call.left()}},
        )
    )
    try:
        received = _joined(response.headers)
        is_cut = not is_expected(response.status)
        limit = min(LARGEST_EXPLANATION, max_bytes) if is_cut else max_bytes
        announced = received.get("content-length", "")
        if not is_cut and request.method != "HEAD" and announced.isdecimal() and int(announced) > limit:
            raise _too_large(request, limit, response.status)
        parts = _decoded(response.iter_stream(), received.get("content-encoding", ""), limit, response.status)
        content = bytearray()
        for part in parts:
            content += part
            if len(content) > limit and is_cut:
                del content[limit:]
                break
            if len(content) > limit:
                raise _too_large(request, limit, response.status)
        return Response(response.status, received, bytes(content))
    finally:
        response.close()


def _too_large(request: Request, limit: int, status: int) -> CallFailed:
    return CallFailed(
        TOO_LARGE,
        f"the response to {request.shown()} is larger than {limit:,} bytes; raise `maxBytes`, or have it "
        "stored elsewhere and pass on a reference",
        status=status,
    )


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        joined[key] = f"{joined[key]}, {text}" if key in joined else text
    return joined


def _decoded(parts: Iterable[bytes], encoding: str, limit: int, status: int) -> Iterator[bytes]:
    """Yield a body decompressed, in parts of which none is much larger than the limit."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        yield from parts
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise CallFailed(
            INVALID_RESPONSE, f"the response is encoded as {encoding[:40]!r}, not gzip", status=status
        )
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, as its beginning says
    try:
        for part in parts:
            while part:
                yield inflate.decompress(part, limit + 1)
                part = inflate.unconsumed_tail  # noqa: PLW2901  what is left after `limit` bytes
                if inflate.eof and inflate.unused_data:  # another member follows
                    part = inflate.unused_data  # noqa: PLW2901
                    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        if not inflate.eof:
            raise zlib.error("it ends too early")
    except zlib.error as error:
        raise CallFailed(
            INVALID_RESPONSE, f"the response cannot be decompressed: {error}", status=status
        ) from None


# -- pools -----------------------------------------------------------------------------------------------


_is_ours: ContextVar[bool] = ContextVar("is_ours", default=False)
"""True during a call of ours, whose headers may be secret: httpcore2 would log them at the level DEBUG."""


def _is_of_others(record: logging.LogRecord) -> bool:
    return not _is_ours.get()


class _Pools:
    """The connection pools of one process, by what they may reach."""

    def __init__(self) -> None:
        import httpx2

        for name in ("httpcore2.connection", "httpcore2.http11"):
            logging.getLogger(name).addFilter(_is_of_others)  # once, however often it is added
        self.process = os.getpid()
        self._ssl_context = httpx2.create_ssl_context()
        self._pools: dict[tuple[ReachableHosts, bool], Any] = {}

    def of(self, backend: Backend) -> Any:
        key = (backend.allowed, backend.allow_private)
        if (pool := self._pools.get(key)) is None:
            import httpcore2

            network_backend: Any = backend
            pool = httpcore2.ConnectionPool(
                ssl_context=self._ssl_context,
                max_connections=None,
                max_keepalive_connections=KEPT_CONNECTIONS,
                keepalive_expiry=KEEP_ALIVE,
                network_backend=network_backend,
            )
            pool = self._pools.setdefault(key, pool)
        return pool


_current: _Pools | None = None


def _pools() -> _Pools:
    """Return the pools of this process; a child has to open connections of its own.

    There is no lock, which a fork could leave held: two threads may both make the first ones.
    """
    global _current  # noqa: PLW0603
    pools = _current
    if pools is None or pools.process != os.getpid():
        pools = _current = _Pools()
    return pools


def _forget(pools: _Pools) -> None:
    global _current  # noqa: PLW0603
    if _current is pools:
        _current = None
