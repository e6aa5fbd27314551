"""A client costs nothing until it is used, so that modules of tasks and nodes may make one."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from workflow_engine import WorkflowClient, get_settings
from workflow_engine.engine.assembly import Engine
from workflow_engine.errors import DatabaseUnavailable, SettingsInvalid

NOBODY = "0190f5fe-7c00-7a00-8000-000000000000"


@pytest.fixture(autouse=True)
def _settings_of_each_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WORKFLOW_ENGINE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_nodes_may_import_tasks_that_import_the_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lazy_tasks.py").write_text(
        "from workflow_engine import WorkflowClient\nclient = WorkflowClient()\ndef thank(): ...\n"
    )
    (tmp_path / "lazy_nodes.py").write_text("from lazy_tasks import thank\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WORKFLOW_ENGINE_IMPORTS", "lazy_nodes")

    from lazy_tasks import client

    assert "lazy_nodes" not in sys.modules
    with pytest.raises(DatabaseUnavailable):
        client.get(NOBODY)
    assert "lazy_nodes" in sys.modules


def test_settings_are_read_when_a_client_is_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    client = WorkflowClient()
    monkeypatch.setenv("WORKFLOW_ENGINE_LOCK_EXPIRY", "0")

    with pytest.raises(SettingsInvalid):
        client.get(NOBODY)
    monkeypatch.delenv("WORKFLOW_ENGINE_LOCK_EXPIRY")
    with pytest.raises(DatabaseUnavailable):
        client.get(NOBODY)


def test_threads_that_share_a_client_share_its_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    assembled: list[Engine] = []
    assemble, together = Engine.assemble, threading.Barrier(4)

    def slowly(*given: Any, **options: Any) -> Engine:
        time.sleep(0.05)
        assembled.append(assemble(*given, **options))
        return assembled[-1]

    def use(client: WorkflowClient) -> None:
        together.wait(30)
        with pytest.raises(DatabaseUnavailable):
            client.get(NOBODY)

    monkeypatch.setattr(Engine, "assemble", slowly)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, [WorkflowClient()] * 4))

    assert len(assembled) == 1
