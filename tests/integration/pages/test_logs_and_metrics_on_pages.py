"""The pages show what nodes have logged, and Flower serves the state of the installation to Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.broker import Workers
from support.flower_site import Site, flower_site
from support.workflows import line
from workflow_engine import WorkflowClient
from workflow_engine.engine.assembly import Engine

log = logging.getLogger("shop.nodes")


def warns(context: Any) -> int:
    log.warning("attempt %d of <script>alert(1)</script>\x1b[31m", context.attempt)
    if context.attempt == 1:
        raise ConnectionError("no route")
    return 1


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    return new_engine(node_log_limit=4096)


@pytest.fixture
def second_engine(new_engine: Callable[..., Engine]) -> Engine:
    return new_engine(node_log_limit=4096)


@pytest.fixture
def site(engine: Engine) -> Iterator[Site]:
    with flower_site(engine) as running:
        yield running


def test_the_page_of_an_execution_shows_what_each_attempt_has_logged(
    client: WorkflowClient, workers: Workers, site: Site
) -> None:
    client.deploy(line(warns, retry={"maxAttempts": 2, "waitDuration": 0}))
    execution = client.start("line").id
    workers.drain()

    first = site.get(f"/executions/{execution}?node=warns&row=2").text
    second = site.get(f"/executions/{execution}?node=warns&row=3").text

    assert "shop.nodes: attempt 1 of &lt;script&gt;" in first
    assert "attempt 2 of" not in first
    assert "shop.nodes: attempt 2 of &lt;script&gt;" in second
    assert "\x1b" not in second


def test_flower_serves_the_state_to_those_who_have_signed_on(client: WorkflowClient, site: Site) -> None:
    client.deploy(line(warns))
    client.start("line")

    served = site.get("/workflow/metrics")

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(served.text)
        for sample in family.samples
    }
    assert served.headers["Content-Type"].startswith("text/plain")
    assert samples["workflow_engine_executions", "PENDING"] == 1
    assert site.get("/workflow/metrics", user=None).status_code == 401
