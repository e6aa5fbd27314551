"""An `action/api-call` is written in YAML or Python, and needs an extra where it is deployed and run."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from workflow_engine import DISTRIBUTION, WorkflowBuilder
from workflow_engine.definition.workflow import Workflow
from workflow_engine.errors import UnknownNodeType
from workflow_engine.nodes.loading import load_node_types
from workflow_engine.runner.compiled import CompiledWorkflow
from workflow_engine.validation import problems_of

CONFIG = {
    "url": "https://api.example/orders/{{ start.id }}",
    "method": "POST",
    "query": {"dry": True},
    "headers": {"X-Shop": "{{ start.shop }}"},
    "json": {"id": "{{ start.id }}"},
    "auth": {"basic": {"username": "shop", "password": "{{ _secrets.PASSWORD }}"}},
    "timeout": 5,
    "expect": ["2xx", 409],
    "maxBytes": 1000,
    "followRedirects": 2,
    "allowPrivate": True,
}


def whole(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "calls",
        "nodes": [
            {"id": "start", "type": "trigger", "subType": "manual"},
            {"id": "ask", "type": "action", "subType": "api-call", "config": config},
        ],
        "edges": [{"source": "start", "target": "ask"}],
    }


def test_a_request_built_in_python_is_the_same_as_in_yaml() -> None:
    flow = WorkflowBuilder("calls")
    flow.trigger("start") >> flow.api_call(
        "ask",
        CONFIG["url"],
        method="POST",
        query={"dry": True},
        headers={"X-Shop": "{{ start.shop }}"},
        json={"id": "{{ start.id }}"},
        auth=CONFIG["auth"],
        call_timeout=5,
        expect=["2xx", 409],
        max_bytes=1000,
        follow_redirects=2,
        allow_private=True,
    )

    assert flow.build() == Workflow.model_validate(whole(CONFIG))
    assert problems_of(whole(CONFIG), load_node_types()) == []


@pytest.mark.parametrize(
    "config",
    [
        {"url": "{{ start.url }}"},
        {"url": "{{ base }}/orders/{{ start.id }}?q={{ start.q }}", "expect": 200},
        {"url": "HTTPS://api.example/", "expect": "204", "timeout": "{{ start.seconds }}"},
        {"url": "https://api.example/", "query": "{{ start.query }}", "headers": "{{ start.headers }}"},
        {"url": "https://api.example/", "method": "DELETE", "body": "{{ start.text }}"},
        {"url": "https://api.example/", "method": "PUT", "form": "{{ start.form }}"},
        {"url": "https://api.example/", "method": "PUT", "json": None},
        {"url": "http://[::1]:8080/", "allowPrivate": True},
    ],
)
def test_what_an_author_may_write_is_accepted(config: dict[str, Any]) -> None:
    assert problems_of(whole(config), load_node_types()) == []


@pytest.fixture
def without_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)


@pytest.mark.usefixtures("without_client")
def test_where_the_client_is_missing_validation_names_the_extra() -> None:
    [problem] = problems_of(whole(CONFIG), load_node_types())

    assert problem.path == "nodes[ask].subType"
    assert problem.message == (
        "'action/api-call' needs the package httpx2; run `pip install 'celery-workflow-engine[http]'` "
        "wherever workflows are deployed, and on every worker"
    )
    assert f"'{DISTRIBUTION}[http]'" in problem.message


@pytest.mark.usefixtures("without_client")
def test_a_worker_without_the_client_counts_as_one_that_lacks_the_node_type() -> None:
    registry = load_node_types()
    compiled = CompiledWorkflow.of(Workflow.model_validate(whole(CONFIG)), 1, registry)

    assert "action/api-call" not in registry.runnable
    assert "action/api-call" not in registry.names
    with pytest.raises(UnknownNodeType, match=r"needs the package httpx2; run `pip install"):
        compiled.node("ask")
