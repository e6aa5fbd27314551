"""An HTTP request is sent as its config says, and its response becomes the node's output."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from support.http_server import HttpServer, Received, Reply
from support.node_runs import Call, error_of
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.action.api_call import NODE_TYPE
from workflow_engine.nodes.action.http import exchange

# -- what is sent ----------------------------------------------------------------------------------------


def test_a_request_has_the_parts_that_its_config_names(server: HttpServer, call: Call) -> None:
    result = call(
        "/orders?a=1",
        method="POST",
        query={"tag": ["x", "y z"], "n": 1, "flag": True, "none": None},
        headers={"X-Id": "{{ placed.id }}", "X-None": None, "X-Several": ["a", 2]},
        json={"id": "{{ placed.id }}", "name": "Grüße"},
        outputs={"placed": {"id": 7}},
    )

    [received] = server.received
    assert result.kind == "success"
    assert (received.method, received.path) == ("POST", "/orders?a=1&flag=true&n=1&tag=x&tag=y+z")
    assert received.body == '{"id":7,"name":"Grüße"}'.encode()
    assert received.headers["content-type"] == "application/json"
    assert received.headers["content-length"] == str(len(received.body))
    assert received.headers["x-id"] == "7"
    assert received.headers["user-agent"].startswith("celery-workflow-engine/")
    assert received.headers["x-several"] == "a, 2"
    assert "x-none" not in received.headers


@pytest.mark.parametrize(
    ("config", "content_type", "body"),
    [
        (
            {"form": {"a": "1 2", "b": ["ü", "&"]}},
            "application/x-www-form-urlencoded",
            "a=1+2&b=%C3%BC&b=%26",
        ),
        ({"body": "<a/>", "headers": {"Content-Type": "application/xml"}}, "application/xml", "<a/>"),
        ({"body": "ü"}, "text/plain; charset=utf-8", "ü"),
        ({"json": None}, "application/json", "null"),
        ({}, None, ""),
    ],
)
def test_a_body_is_json_a_form_or_a_text(
    server: HttpServer, call: Call, config: dict[str, Any], content_type: str | None, body: str
) -> None:
    call(method="PUT", **config)

    [received] = server.received
    assert received.headers.get("content-type") == content_type
    assert received.body.decode() == body


def test_an_author_shows_who_sends_it_by_a_token_or_a_password(
    server: HttpServer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_KEY", "pass")

    call(auth={"bearer": "{{ _secrets.KEY }}"})
    call(auth={"basic": {"username": "{{ 'user' }}", "password": "{{ _secrets.KEY }}"}})

    assert [each.headers["authorization"] for each in server.received] == [
        "Bearer pass",
        "Basic dXNlcjpwYXNz",
    ]


def test_every_request_carries_the_idempotency_key_of_its_node(server: HttpServer) -> None:
    context = ExecutionContext("e-1", "shop", "t-1", "placed", "n", {}, idempotency_key="e-1:charge:2")
    config = {"url": server.url(), "allowPrivate": True}

    NODE_TYPE.executor.execute("charge", {**config, "method": "POST"}, context)
    NODE_TYPE.executor.execute("charge", {**config, "headers": {"idempotency-key": "mine"}}, context)

    assert [each.headers["idempotency-key"] for each in server.received] == ["e-1:charge:2", "mine"]


@pytest.mark.parametrize(
    ("template", "value", "path"),
    [
        ("/orders/{{ placed.id }}/lines", "a b/../c?x=#ü", "/orders/a%20b%2F..%2Fc%3Fx%3D%23%C3%BC/lines"),
        ("/orders/{{ placed.id }}", 42, "/orders/42"),
        ("/orders?q={{ placed.id }}&n=1", "a&n=2", "/orders?q=a%26n%3D2&n=1"),
        ("/orders?q={{ placed.id }}", "", "/orders?q="),
        ("/{{ placed.id | urlencode }}", "a/b c", "/a/b%20c"),
        ("/{{ placed.id | default('x') }}-{{ placed.id }}", "é", "/%C3%A9-%C3%A9"),
        ("/{{- placed.id -}}/x", "a", "/a/x"),
    ],
)
def test_data_inside_a_url_stays_in_the_place_where_its_expression_stands(
    server: HttpServer, call: Call, template: str, value: Any, path: str
) -> None:
    call(template, outputs={"placed": {"id": value}})

    assert server.received[0].path == path


def test_a_url_may_begin_with_an_expression_or_be_one(server: HttpServer, call: Call) -> None:
    outputs = {
        "placed": {"base": server.url(""), "url": server.url("/b?c=d"), "id": "x/y", "port": server.port}
    }

    call(url="{{ placed.base }}/a/{{ placed.id }}", outputs=outputs)
    call(url="{{ placed.url }}", outputs=outputs)
    call(url="http://127.0.0.1:{{ placed.port }}/c", outputs=outputs)

    assert [each.path for each in server.received] == ["/a/x%2Fy", "/b?c=d", "/c"]


# -- what comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind", "body"),
    [
        (b'{"a":[1,2.5,null]}', "application/json", {"a": [1, 2.5, None]}),
        (b'{"a":1}', "application/problem+json; charset=utf-8", {"a": 1}),
        (b'\xef\xbb\xbf{"a":1}', "application/json", {"a": 1}),
        ('{"a":"ü"}'.encode("latin-1"), "application/json; charset=iso-8859-1", {"a": "ü"}),
        (b"", "application/json", None),
        ("Grüße".encode(), "text/plain", "Grüße"),
        ("Grüße".encode("latin-1"), "text/html; charset=ISO-8859-1", "Grüße"),
        (b"<a/>", "application/atom+xml", "<a/>"),
        (b"text", "", "text"),
    ],
)
def test_a_body_is_a_value_or_a_text_as_its_type_says(
    server: HttpServer, call: Call, content: bytes, kind: str, body: Any
) -> None:
    server.answer = lambda received: Reply(201, content, {"Content-Type": kind, "X-A": "1"})

    output = call().output

    assert (output["status"], output["body"]) == (201, body)
    assert output["headers"]["x-a"] == "1"


@pytest.mark.parametrize("content", [b"\x89PNG\x00\xff", b"a\x00b"])
def test_a_body_that_is_no_text_is_given_in_base64(server: HttpServer, call: Call, content: bytes) -> None:
    server.answer = lambda received: Reply(200, content, {"Content-Type": "image/png"})

    output = call().output

    assert output["encoding"] == "base64"
    assert zlib.crc32(__import__("base64").b64decode(output["body"])) == zlib.crc32(content)


def test_a_body_is_decompressed(server: HttpServer, call: Call) -> None:
    halves = gzip.compress(b"a" * 100_000) + gzip.compress(b"b")
    server.answer = lambda received: Reply(
        200, halves, {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    )

    assert call().output["body"] == "a" * 100_000 + "b"
    assert server.received[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(200, b"{", {"Content-Type": "application/json"}), "says it is JSON, but is not"),
        (Reply(200, b"{}", {"Content-Type": "application/json; charset=klingon"}), "says it is JSON"),
        (Reply(200, b"\xff", {"Content-Type": "application/json; charset=utf-8"}), "says it is JSON"),
        (Reply(200, b"x", {"Content-Encoding": "gzip"}), "cannot be decompressed"),
        (Reply(200, b"x", {"Content-Encoding": "br"}), "is encoded as 'br', not gzip"),
    ],
)
def test_a_response_that_is_not_what_it_says_fails_the_node(
    server: HttpServer, call: Call, reply: Reply, message: str
) -> None:
    server.answer = lambda received: reply

    error = error_of(call())

    assert (error.type, error.status) == ("INVALID_RESPONSE", 200)
    assert message in error.message


# -- statuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "status", "is_success"),
    [
        ("2xx", 204, True),
        ("2xx", 302, False),
        (404, 404, True),
        (["2xx", 404], 404, True),
        (["20x", "409"], 210, False),
        ("409", 409, True),
    ],
)
def test_the_statuses_of_success_are_those_that_are_expected(
    server: HttpServer, call: Call, expect: Any, status: int, is_success: bool
) -> None:
    server.answer = lambda received: Reply(status)

    assert (call(expect=expect).kind == "success") is is_success


def test_an_unexpected_status_fails_the_node_with_what_the_server_said(
    server: HttpServer, call: Call
) -> None:
    server.answer = lambda received: Reply(
        422, {"problem": "no such size"}, {"Retry-After": "7", "X-Id": "r-1"}
    )

    error = error_of(call("/orders/7?token=long", method="POST"))

    assert (error.type, error.status, error.retry_after) == ("HTTP_STATUS", 422, 7.0)
    assert error.message == f"POST {server.url('/orders/7')} returned 422"
    assert error.details["body"] == {"problem": "no such size"}
    assert error.details["headers"]["x-id"] == "r-1"


def test_of_a_long_explanation_the_beginning_is_kept(server: HttpServer, call: Call) -> None:
    server.answer = lambda received: Reply(500, ["a" * 1_000_000])

    assert len(error_of(call()).details["body"]) == exchange.LARGEST_EXPLANATION


def _date(seconds: float) -> str:
    return format_datetime(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "99999999999999999999"}, exchange.LONGEST_RETRY_AFTER),
        ({"Retry-After": _date(90), "Date": _date(0)}, 90.0),
        ({"Retry-After": _date(-90), "Date": _date(0)}, 0.0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": _date(0)}, exchange.LONGEST_RETRY_AFTER),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "²"}, None),
        ({}, None),
    ],
)
def test_the_time_to_wait_is_read_as_seconds_or_as_a_date_by_the_clock_of_the_server(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert exchange.retry_after({name.lower(): value for name, value in headers.items()}) == seconds


# -- redirects -------------------------------------------------------------------------------------------


def _to(location: str, status: int = 302) -> Callable[[Received], Reply]:
    return lambda received: (
        Reply(status, headers={"Location": location})
        if received.path == "/"
        else Reply(200, {"at": received.path})
    )


def test_a_redirect_is_not_followed_unless_the_node_says_so(server: HttpServer, call: Call) -> None:
    server.answer = _to("/next")

    assert "to follow redirects, set `followRedirects`" in error_of(call()).message
    assert call(followRedirects=1).output["body"] == {"at": "/next"}


@pytest.mark.parametrize(
    ("status", "method", "body"),
    [(301, "GET", b""), (302, "GET", b""), (303, "GET", b""), (307, "POST", b"{}"), (308, "POST", b"{}")],
)
def test_a_redirect_changes_the_method_as_in_browsers(
    server: HttpServer, call: Call, status: int, method: str, body: bytes
) -> None:
    server.answer = _to("/next", status)

    call(method="POST", json={}, followRedirects=3)

    followed = server.received[-1]
    assert (followed.path, followed.method, followed.body) == ("/next", method, body)


def test_a_redirect_to_another_origin_takes_no_credentials_along(
    server: HttpServer, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKFLOW_SECRET_KEY", "pass")
    with HttpServer() as other:
        server.answer = _to(other.url("/there"), 307)
        call(
            method="POST",
            json=1,
            headers={"X-Api-Key": "{{ _secrets.KEY }}", "Cookie": "a=b"},
            auth={"bearer": "{{ _secrets.KEY }}"},
            followRedirects=1,
        )

        [received] = other.received
    assert received.body == b"1"
    assert received.headers.keys() == {
        "host", "accept", "accept-encoding", "content-type", "content-length", "user-agent",
    }  # fmt: skip


def test_redirects_that_go_round_end(server: HttpServer, call: Call) -> None:
    server.answer = lambda received: Reply(302, headers={"Location": "/"})

    assert error_of(call(followRedirects=3)).type == "REDIRECT_REFUSED"
    assert len(server.received) == 4
