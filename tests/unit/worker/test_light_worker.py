"""An idle worker holds what running nodes takes, and shares it with the processes of its pool."""

from __future__ import annotations

import json
import subprocess
import sys

PREPARE = """
import gc, json, sys
from types import SimpleNamespace
from workflow_engine.worker import celery
from workflow_engine.engine.assembly import worker_engine
from workflow_engine.worker.steps.preparation import Preparation

celery.loader.import_default_modules()
before = len(gc.get_objects())
worker = SimpleNamespace(app=celery)
Preparation(worker).create(worker)
frozen, left = gc.get_freeze_count(), len(gc.get_objects())
print(json.dumps({"modules": sorted(sys.modules), "before": before, "frozen": frozen, "left": left}))
"""

NOT_FOR_NODES = {
    "sqlalchemy": "migrations, and starts in a caller's transaction",
    "alembic": "migrations",
    "jsonschema": "triggers with a schema",
    "referencing": "triggers with a schema",
    "httpx2": "the node type api-call, once it runs",
    "prometheus_client": "a worker that serves metrics",
    "flower": "pages",
    "tornado": "pages",
    "rich": "terminals",
    "re2": "expressions with regular expressions",
    "workflow_engine.client": "producers",
    "workflow_engine.cli": "terminals",
    "workflow_engine.control.explain": "operators",
    "workflow_engine.presentation": "operators",
    "workflow_engine.validation": "deployments",
    "workflow_engine.embedded": "the demo",
}
"""Modules that a worker can do without until it is told otherwise, and what needs them."""


def prepared() -> dict[str, object]:
    output = subprocess.check_output([sys.executable, "-c", PREPARE], text=True)
    report: dict[str, object] = json.loads(output.splitlines()[-1])
    return report


def test_it_imports_nothing_that_no_node_needs() -> None:
    loaded = prepared()["modules"]

    assert isinstance(loaded, list)
    assert "workflow_engine.engine.executor" in loaded
    assert [name for name in NOT_FOR_NODES if name in loaded] == []


def test_collections_of_garbage_leave_alone_what_the_pool_shares() -> None:
    """A collection that looked at an object would copy its page in each process of the pool."""
    report = prepared()

    assert isinstance(report["before"], int)
    assert isinstance(report["frozen"], int)
    assert isinstance(report["left"], int)
    assert report["frozen"] >= report["before"] * 0.95
    assert report["left"] < report["frozen"] / 20
