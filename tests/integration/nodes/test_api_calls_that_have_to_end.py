"""A request ends in time whatever the server does, and its connection serves the next one."""

from __future__ import annotations

import gzip
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from support.http_server import HttpServer, Received, Reply
from support.node_runs import Call, error_of
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.action.api_call import NODE_TYPE
from workflow_engine.nodes.action.http import exchange
from workflow_engine.nodes.contract import NodeTimedOut
from workflow_engine.runner.interruption import call_interruptibly, interrupt
from workflow_engine.runner.time_limit import with_time_limit

# -- bounds ----------------------------------------------------------------------------------------------


def _chunks(received: Received, count: int) -> None:
    received.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(count):
        received.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda received: Reply(200, b"x" * 1001), id="announced"),
        pytest.param(lambda received: _chunks(received, 10_000), id="not announced"),
        pytest.param(
            lambda received: Reply(200, gzip.compress(b"x" * 100_000_000), {"Content-Encoding": "gzip"}),
            id="compressed",
        ),
    ],
)
def test_a_body_beyond_the_limit_fails_the_node_and_is_not_read(
    server: HttpServer, call: Call, answer: Callable[[Received], Reply | None]
) -> None:
    server.answer = answer

    error = error_of(call(maxBytes=1000))

    assert (error.type, error.status) == ("TOO_LARGE", 200)
    assert "larger than 1,000 bytes; raise `maxBytes`" in error.message


def _drip(server: HttpServer, beginning: bytes) -> Callable[[Received], None]:
    def answer(received: Received) -> None:
        received.write(beginning)
        while not server.is_over.wait(0.05):
            received.write(b"x")

    return answer


@pytest.mark.parametrize(
    "beginning",
    [b"", b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"],
    ids=["nothing", "headers", "body"],
)
def test_a_server_that_sends_byte_by_byte_cannot_hold_a_call_beyond_its_timeout(
    server: HttpServer, call: Call, beginning: bytes
) -> None:
    server.answer = _drip(server, beginning)

    started = time.monotonic()
    error = error_of(call(timeout=0.4))

    assert time.monotonic() - started < 2
    assert error.type == "TIMEOUT"
    assert error.message == "no complete response within 0.4 s"


def test_a_server_that_reads_nothing_cannot_hold_a_call_either(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"

        error = error_of(call(url=url, method="POST", body="x" * 20_000_000, timeout=0.4))

    assert error.type == "TIMEOUT"


@pytest.mark.parametrize(
    "text", [b"no HTTP\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]
)
def test_what_is_no_response_fails_the_node_as_a_connection(
    server: HttpServer, call: Call, text: bytes
) -> None:
    server.answer = lambda received: received.write(text)

    error = error_of(call(method="POST"))

    assert error.type == "CONNECTION_FAILED"
    assert len(server.received) == 1


def test_a_host_that_takes_no_connection_cannot_hold_a_call_either(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(3):
            caller = waiting.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())

        started = time.monotonic()
        error = error_of(call(url=f"http://127.0.0.1:{full.getsockname()[1]}/", timeout=0.4))

    assert error.type == "TIMEOUT"
    assert time.monotonic() - started < 2


def test_a_name_server_that_does_not_reply_cannot_hold_a_call_either(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: is_over.wait(60) and [])

    started = time.monotonic()
    error = error_of(call(url="http://shop.example/", timeout=0.4))
    is_over.set()

    assert error.type == "TIMEOUT"
    assert time.monotonic() - started < 2


def test_a_port_where_nobody_listens_is_named(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    error = error_of(call(url=f"http://localhost:{port}/"))

    assert error.type == "CONNECTION_FAILED"
    assert f"cannot connect to localhost, port {port}: Connection refused" in error.message


# -- interruptions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_main_thread", [True, False])
def test_the_timeout_of_the_node_ends_a_blocked_call(
    server: HttpServer, call: Call, in_main_thread: bool
) -> None:
    server.answer = _drip(server, b"")

    def timed() -> float:
        started = time.monotonic()
        with pytest.raises(NodeTimedOut, match=r"timeout of 0\.3 s$"):
            with_time_limit(0.3, call)
        return time.monotonic() - started

    if in_main_thread:
        assert timed() < 2
    else:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(timed).result() < 3
    server.answer = lambda received: Reply()
    assert call().kind == "success"


def test_an_interruption_ends_a_blocked_call_and_leaves_the_next_ones_alone(
    server: HttpServer, call: Call
) -> None:
    server.answer = _drip(server, b"")
    threading.Thread(
        target=lambda: (_until(lambda: server.received), interrupt("token")), daemon=True
    ).start()

    with pytest.raises(BaseException) as raised:  # noqa: PT011  the class is BaseException's child
        call_interruptibly("token", call)

    assert type(raised.value).__name__ == "NodeInterrupted"
    server.answer = lambda received: Reply()
    assert call().kind == "success"


def test_where_nothing_can_interrupt_a_cancelled_call_ends_by_itself(server: HttpServer, call: Call) -> None:
    server.answer = _drip(server, b"HTTP/1.1 200 OK\r\nX-")

    class Run:
        @property
        def is_unwanted(self) -> bool:
            return bool(server.received)

        def report_progress(self, fraction: float | None, message: str) -> None: ...

    context = ExecutionContext("e", "w", "t", "placed", "n", {}, run=Run())
    result = NODE_TYPE.executor.execute("n", {"url": server.url(), "allowPrivate": True}, context)

    assert error_of(result).type == "INTERRUPTED"
    assert len(server.received) == 1


def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


# -- connections -------------------------------------------------------------------------------------------


def test_a_connection_is_used_again_by_every_thread_of_the_process(server: HttpServer, call: Call) -> None:
    for _ in range(5):
        call()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()

    assert len({each.port for each in server.received}) == 1


def test_requests_at_once_have_a_connection_each(server: HttpServer, call: Call) -> None:
    barrier = threading.Barrier(16, timeout=10)
    server.answer = lambda received: (barrier.wait() >= 0 and Reply()) or None

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: call(), range(16)))

    assert {result.kind for result in results} == {"success"}


@pytest.mark.parametrize(("method", "requests"), [("GET", 3), ("POST", 2)])
def test_a_kept_connection_that_is_gone_costs_a_request_that_may_be_sent_again_nothing(
    server: HttpServer, call: Call, method: str, requests: int
) -> None:
    call()
    server.answer = lambda received: None if len(server.received) == 2 else Reply()

    result = call(method=method)

    assert (result.kind == "success") is (method == "GET")
    assert len(server.received) == requests


def test_a_process_that_was_forked_opens_connections_of_its_own(server: HttpServer, call: Call) -> None:
    call()
    if (child := os.fork()) == 0:
        os._exit(0 if call().kind == "success" else 1)

    assert os.waitpid(child, 0)[1] == 0
    assert call().kind == "success"
    ports = [each.port for each in server.received]
    assert ports[0] == ports[2] != ports[1]


def test_cookies_are_not_kept(server: HttpServer, call: Call) -> None:
    server.answer = lambda received: Reply(headers={"Set-Cookie": "session=1"})

    assert call().output["headers"]["set-cookie"] == "session=1"
    call()
    assert "cookie" not in server.received[1].headers


def test_proxies_of_the_environment_are_not_used(
    server: HttpServer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert call().kind == "success"


def test_a_certificate_is_verified_by_the_name_in_the_url(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with HttpServer().encrypted(context) as server:
        distrusted = error_of(call(url=server.url(host="localhost")))
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        monkeypatch.setattr(exchange, "_current", None)
        trusted = call(url=server.url(host="localhost"))
        misnamed = error_of(call(url=server.url(host="127.0.0.1")))

    assert (distrusted.type, misnamed.type) == ("TLS_FAILED", "TLS_FAILED")
    assert "certificate verify failed" in distrusted.message
    assert trusted.kind == "success"
