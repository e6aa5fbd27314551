"""A server, and a node that calls it, without an execution around it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support.http_server import HttpServer
from support.node_runs import Call
from support.node_runs import run as run_prepared
from workflow_engine.nodes.action.api_call import NODE_TYPE
from workflow_engine.nodes.action.http import exchange
from workflow_engine.nodes.results import NodeExecutionResult


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def call(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return a function that calls the server: by default a GET of `/`."""
    monkeypatch.setattr(exchange, "_current", None)

    def call(path: str = "/", outputs: dict[str, Any] | None = None, **config: Any) -> NodeExecutionResult:
        return run_prepared(NODE_TYPE, {"url": server.url(path), "allowPrivate": True, **config}, outputs)

    return call
