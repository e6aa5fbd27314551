"""`action/api-call`: an HTTP request whose response is the node's output.

What a URL gets from data is encoded where it stands: `prepare` wraps each expression inside a URL, so that
an order id such as `../admin?x=` stays one segment of the path. Every request carries the node's idempotency
key.
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal
from urllib.parse import quote_plus

from pydantic import AfterValidator, Field, StrictBool, StrictInt, WithJsonSchema, model_validator

from workflow_engine.addresses.reachable import ReachableHosts
from workflow_engine.definition.problems import short_repr
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.expressions.template import rewrite_expressions
from workflow_engine.json_values import encode
from workflow_engine.nodes.action.http.exchange import Request, exchange, parse_url
from workflow_engine.nodes.action.http.failure import INVALID_REQUEST, CallFailed
from workflow_engine.nodes.action.http.sockets import Backend, Call
from workflow_engine.nodes.config_fields import (
    Amount,
    has_expression,
    require_expression,
    seconds_of,
    whole_expression,
)
from workflow_engine.nodes.contract import DISTRIBUTION, Config, Extra, NodeType
from workflow_engine.nodes.results import NodeExecutionResult, failure, success
from workflow_engine.settings import get_settings

IDEMPOTENCY_KEY = "Idempotency-Key"
DEFAULT_TIMEOUT = 30.0
LONGEST_TIMEOUT = 3_600
DEFAULT_MAX_BYTES, LARGEST_MAX_BYTES = 1_048_576, 67_108_864

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_STATUS = re.compile(r"[1-5](?:[0-9]{2}|[0-9]x|xx)")
_OURS = frozenset((
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade",
    "expect", "accept-encoding", "proxy-authorization", "proxy-connection",
))  # fmt: skip
"""Headers that belong to the connection, which the engine sets or leaves out."""

# -- the config as it is written -------------------------------------------------------------------------


def _object_or_expression(value: Any) -> Any:
    if isinstance(value, dict) or whole_expression(value) is not None:
        return value
    raise ValueError("must be an object of names and values, or an expression that is one")


def _url(value: str) -> str:
    if not has_expression(value) and re.match(r"(?i)https?://[^/?#]", value) is None:
        raise ValueError(f"must be a URL that begins with http:// or https://, not {short_repr(value)}")
    if re.match(r"\w+://[^/?#]*@", value):
        raise ValueError("may not name a user or password; use `auth`")
    return value


def _headers(value: Any) -> Any:
    _object_or_expression(value)
    for name, text in value.items() if isinstance(value, dict) else ():
        if (problem := _problem_with_header(name)) is not None:
            raise ValueError(problem)
        if isinstance(text, str) and _has_control_characters(text):
            raise ValueError(f"{name}: {_LINE_BREAK}")
    return value


_LINE_BREAK = "the value has a line break or another control character; `| trim` removes one at the end"


def _problem_with_header(name: str) -> str | None:
    if _TOKEN.fullmatch(name) is None:
        return f"{short_repr(name)} is no name of a header"
    if name.lower() in _OURS:
        return f"{name} is set by the engine; leave it out"
    return None


def _has_control_characters(text: str) -> bool:
    return any((each < " " and each != "\t") or each == "\x7f" for each in text)


def _statuses(value: Any) -> Any:
    for each in value if isinstance(value, list) else [value]:
        text = str(each) if type(each) is int else each
        if not isinstance(text, str) or _STATUS.fullmatch(text) is None:
            raise ValueError(
                f"must be a status such as 200, 20x or 2xx, or a list of them, not {short_repr(each)}"
            )
    if value == []:
        raise ValueError("must name at least one status, such as 2xx")
    return value


def _amount_of_time(value: Any) -> Any:
    if isinstance(value, int | float) and not 0 < value <= LONGEST_TIMEOUT:
        raise ValueError(
            f"must be more than 0 and at most {LONGEST_TIMEOUT:,} seconds, not {short_repr(value)}"
        )
    return value


def _secret(value: Any) -> Any:
    try:
        return require_expression(value)
    except ValueError:
        raise ValueError(
            "would be stored in the definition as it stands here; write {{ _secrets.NAME }}"
        ) from None


_Object = Annotated[
    Any, AfterValidator(_object_or_expression), WithJsonSchema({"type": ["object", "string"]})
]
_Secret = Annotated[str, AfterValidator(_secret)]


class Basic(Config):
    """A user and a password."""

    username: str = Field(description="the user, often an expression")
    password: _Secret = Field(description="the password: {{ _secrets.NAME }}")


class Auth(Config):
    """How a request shows who sends it."""

    bearer: _Secret | None = Field(None, description="a token: {{ _secrets.NAME }}")
    basic: Basic | None = Field(None, description="a user and a password")

    @model_validator(mode="after")
    def _is_one(self) -> Auth:
        if (self.bearer is None) == (self.basic is None):
            raise ValueError("give either `bearer` or `basic`; any other way is a header")
        return self


class ApiCallConfig(Config):
    """Config of `action/api-call`."""

    url: Annotated[str, AfterValidator(_url)] = Field(
        description="http:// or https://; an expression inside of it is encoded for the place where it stands"
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"] = Field(
        "GET", description="the method of the request"
    )
    query: _Object = Field(default_factory=dict, description="parameters by name; a list repeats its name")
    headers: Annotated[Any, AfterValidator(_headers), WithJsonSchema({"type": ["object", "string"]})] = Field(
        default_factory=dict, description="headers by name; null leaves one out"
    )
    json_: Any = Field(None, alias="json", description="the body: any value, sent as JSON")
    form: _Object = Field(None, description="the body: fields by name, sent as an HTML form does")
    body: str | None = Field(None, description="the body: a text; name its type in the header Content-Type")
    auth: Auth | None = Field(None, description="a token, or a user and a password")
    timeout: Annotated[Amount, AfterValidator(_amount_of_time)] = Field(
        DEFAULT_TIMEOUT, description="seconds until the whole response must have arrived, redirects included"
    )
    expect: Annotated[
        Any,
        AfterValidator(_statuses),
        WithJsonSchema({"type": ["string", "integer", "array"], "items": {"type": ["string", "integer"]}}),
    ] = Field("2xx", description="statuses of success; with any other the node fails: 2xx, 404, [2xx, 404]")
    max_bytes: StrictInt = Field(
        DEFAULT_MAX_BYTES, ge=1, le=LARGEST_MAX_BYTES, description="bytes of the body, once decompressed"
    )
    follow_redirects: StrictInt = Field(
        0, ge=0, le=10, description="how many redirects may follow each other"
    )
    allow_private: StrictBool = Field(
        False, description="whether it may reach private networks and the machine of the worker"
    )

    @model_validator(mode="after")
    def _has_one_body(self) -> ApiCallConfig:
        given = [name.strip("_") for name in ("json_", "form", "body") if name in self.model_fields_set]
        if len(given) > 1:
            raise ValueError(f"give one body: {' or '.join(f'`{name}`' for name in given)}")
        if given and self.method in ("GET", "HEAD", "OPTIONS"):
            raise ValueError(f"{self.method} sends no `{given[0]}`; set `method`, or use `query`")
        named = {name.lower() for name in self.headers} if isinstance(self.headers, dict) else set()
        if self.auth is not None and "authorization" in named:
            raise ValueError("give either `auth` or the header Authorization")
        return self


# -- expressions inside a URL ----------------------------------------------------------------------------

_IS_ENCODED = re.compile(r"\|\s*(?:urlencode|urlpart)\b[^|]*$")
_EXPRESSION = re.compile(r"\{\{.*?\}\}", re.DOTALL)


def _encode_expressions(config: dict[str, Any]) -> dict[str, Any]:
    """Encode each expression inside the URL for its place; one at its beginning is the base of a URL."""
    url = config.get("url")
    if not isinstance(url, str) or not has_expression(url) or whole_expression(url) is not None:
        return config
    return {**config, "url": rewrite_expressions(url, _encoded)}


def _encoded(before: str, source: str) -> str:
    if not before.strip() or _IS_ENCODED.search(source):
        return source
    before = _EXPRESSION.sub("x", before)
    in_host = re.fullmatch(r"\s*\w+://[^/?#]*", before) is not None
    in_path = "query" if "?" in before else "path"
    return f"({source}) | urlpart('{'host' if in_host else in_path}')"


# -- the call --------------------------------------------------------------------------------------------


class ApiCall:
    """Sends the request; `allowed` is what the operator allows, by default as the settings say."""

    def __init__(self, allowed: ReachableHosts | None = None) -> None:
        self._allowed = allowed

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        allowed = self._allowed if self._allowed is not None else get_settings().api_call_hosts
        try:
            call = Call(_timeout(node_data), context.cancelled)
            response = exchange(
                _request(node_data, context.idempotency_key),
                call,
                backend=Backend(allowed, node_data.get("allowPrivate", False)),
                is_expected=_is_expected(node_data.get("expect", "2xx")),
                max_bytes=node_data.get("maxBytes", DEFAULT_MAX_BYTES),
                redirects=node_data.get("followRedirects", 0),
            )
            return success(response.as_output())
        except CallFailed as failed:
            return failure(
                failed.type,
                failed.message,
                failed.details,
                status=failed.status,
                retry_after=failed.retry_after,
            )


def _timeout(node_data: Mapping[str, Any]) -> float:
    try:
        seconds = seconds_of(node_data.get("timeout", DEFAULT_TIMEOUT), "timeout")
    except ValueError as error:
        raise CallFailed(INVALID_REQUEST, str(error)) from None
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise CallFailed(
            INVALID_REQUEST, f"timeout: must be more than 0 and at most {LONGEST_TIMEOUT:,} seconds"
        )
    return seconds


def _is_expected(expect: Any) -> Any:
    statuses = [str(each) for each in (expect if isinstance(expect, list) else [expect])]
    pattern = re.compile("|".join(status.replace("x", "[0-9]") for status in statuses))
    return lambda status: pattern.fullmatch(str(status)) is not None


def _request(node_data: Mapping[str, Any], idempotency_key: str) -> Request:
    url = node_data["url"]
    if not isinstance(url, str):
        raise CallFailed(INVALID_REQUEST, f"url: must be text, but is {short_repr(url)}")
    parsed = parse_url(url.strip())
    if query := _pairs(node_data.get("query", {}), "query"):
        before = [parsed.query.decode("ascii")] if parsed.query else []
        parsed = parsed.copy_with(query="&".join([*before, _urlencoded(query)]).encode())
    content, content_type = _content(node_data)
    given: dict[str, str] = {}
    for name, value in _pairs(node_data.get("headers", {}), "headers"):
        given[name.lower()] = f"{given[name.lower()]}, {value}" if name.lower() in given else value
    headers = {
        "accept": "*/*",
        "accept-encoding": "gzip",
        "user-agent": _user_agent(),
        IDEMPOTENCY_KEY.lower(): idempotency_key,
        **({"content-type": content_type} if content_type else {}),
        **_auth(node_data.get("auth")),
        **given,
    }
    return Request(
        node_data.get("method", "GET"),
        parsed,
        tuple((name, _header_value(name, value)) for name, value in headers.items()),
        content,
    )


def _header_value(name: str, value: str) -> bytes:
    problem = _problem_with_header(name) if name.lower() != "accept-encoding" else None
    if problem is None and _has_control_characters(value):
        problem = f"{name}: {_LINE_BREAK}"
    if problem is not None:
        raise CallFailed(INVALID_REQUEST, f"headers: {problem}")
    return value.strip().encode()


def _content(node_data: Mapping[str, Any]) -> tuple[bytes, str | None]:
    if "json" in node_data:
        return encode(node_data["json"]), "application/json"
    if node_data.get("form") is not None:
        return _urlencoded(_pairs(node_data["form"], "form")).encode(), "application/x-www-form-urlencoded"
    body = node_data.get("body")
    if body is None:
        return b"", None
    if not isinstance(body, str):
        raise CallFailed(INVALID_REQUEST, f"body: must be text, but is {short_repr(body)}; use `json`")
    return body.encode(), "text/plain; charset=utf-8"


def _pairs(value: Any, what: str) -> list[tuple[str, str]]:
    """Return the names and texts of an object, without those that are null. Raises CallFailed."""
    if not isinstance(value, Mapping):
        raise CallFailed(INVALID_REQUEST, f"{what}: must be an object, but is {short_repr(value)}")
    pairs: list[tuple[str, str]] = []
    for name, given in value.items():
        for each in given if isinstance(given, list) else [given]:
            if each is None:
                continue
            if not isinstance(each, str | int | float):
                raise CallFailed(INVALID_REQUEST, f"{what}.{name}: must be text, but is {short_repr(each)}")
            pairs.append((name, each if isinstance(each, str) else encode(each).decode()))
    return pairs


def _urlencoded(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in pairs)


def _auth(auth: Any) -> dict[str, str]:
    if auth is None:
        return {}
    if (token := auth.get("bearer")) is not None:
        return {"authorization": f"Bearer {_credential('bearer', token)}"}
    user = _credential("basic.username", auth["basic"]["username"])
    password = _credential("basic.password", auth["basic"]["password"])
    if ":" in user:
        raise CallFailed(INVALID_REQUEST, "auth.basic.username: a user name may not contain a colon")
    return {"authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def _credential(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or _has_control_characters(value):
        raise CallFailed(INVALID_REQUEST, f"auth.{name}: must be text without line breaks")
    return value


@functools.cache
def _user_agent() -> str:
    try:
        return f"{DISTRIBUTION}/{version(DISTRIBUTION)}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return DISTRIBUTION


NODE_TYPE = NodeType(
    "action",
    "api-call",
    ApiCall(),
    ApiCallConfig,
    prepare=_encode_expressions,
    description="Sends an HTTP request.",
    extra=Extra("httpx2", "http"),
)
