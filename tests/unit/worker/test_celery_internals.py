"""Private parts of Celery and kombu are named, used where that is wanted, and done without elsewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.transport import redis, virtual

from support.repository import ROOT
from workflow_engine import Settings
from workflow_engine.broker import redis_transport
from workflow_engine.broker.dispatcher import producer_app
from workflow_engine.broker.internals import Internal
from workflow_engine.settings import get_settings
from workflow_engine.worker import celery_internals
from workflow_engine.worker.celery_internals.compatibility import LOOKAHEAD, POOL_WRITES, PREFETCH, is_wanted

VARIABLE = "WORKFLOW_ENGINE_CELERY_INTERNALS"
ROW = re.compile(r"^\| `(\w+)` \| `(\w+)` \| .+ \|$", re.MULTILINE)
ELSEWHERE = {
    "consumption_watch.py": {"_size"},  # without it the watch does nothing
    "dispatcher.py": {"_q_for_pri"},  # without it each message is published by itself
    "preparation.py": {"_get_current_object"},  # documented
}


@pytest.fixture(autouse=True)
def _read_settings_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    get_settings.cache_clear()
    yield
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.mark.parametrize(
    ("module", "internals"),
    [(celery_internals, POOL_WRITES + PREFETCH + LOOKAHEAD), (redis_transport, redis_transport.INTERNALS)],
    ids=["celery", "kombu"],
)
def test_the_docstring_names_each_attribute_that_is_checked_and_no_other(
    module: ModuleType, internals: Sequence[Internal]
) -> None:
    rows = ROW.findall(module.__doc__ or "")

    assert rows == [(internal.name, internal.of) for internal in internals]


def test_no_private_attribute_of_theirs_is_used_that_is_not_checked() -> None:
    checked = {
        "pool_writes.py": {internal.name for internal in POOL_WRITES},
        "prefetch.py": {internal.name for internal in PREFETCH},
        "lookahead.py": {internal.name for internal in LOOKAHEAD} | ELSEWHERE["preparation.py"],
        "redis_transport.py": {internal.name for internal in redis_transport.INTERNALS},
    }
    rooms = [ROOT / "workflow_engine" / room for room in ("broker", "worker")]
    used = {file.name: private_attributes(file) for room in rooms for file in room.rglob("*.py")}

    assert used["pool_writes.py"] >= {"_cache", "_quick_put", "_accept_callback"}
    known = checked | ELSEWHERE
    assert {name: rest for name, names in used.items() if (rest := names - known.get(name, set()))} == {}


def private_attributes(file: Path) -> set[str]:
    """Return the private attributes that a module uses on objects other than its own."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {
        node.target.id
        for node in nodes
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    own |= {
        node.attr
        for node in attributes
        if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    found = {node.attr for node in attributes if ast.unparse(node.value) != "os"}
    return {name for name in found - own if name.startswith("_") and not name.startswith("__")}


def consumer_of(app: Celery, *, prefork: bool = True, event_loop: bool = True) -> Any:
    """Return the parts of Celery's consumer that decide whether private parts are used."""
    return SimpleNamespace(
        app=app,
        pool=SimpleNamespace(uses_semaphore=prefork),
        controller=SimpleNamespace(use_eventloop=event_loop),
    )


def engines_own() -> Celery:
    app = Celery("own", set_as_current=False)
    app.config_from_object("workflow_engine.worker.configuration")
    return app


def ready_made() -> Celery:
    app = Celery("ready-made", set_as_current=False)
    app.config_from_object("celeryconfig")  # of this repository and its image
    return app


def teams() -> Celery:
    return Celery("team", set_as_current=False)


@pytest.mark.parametrize(
    ("app", "value", "wanted"),
    [
        (engines_own, None, True),
        (engines_own, "", True),
        (engines_own, "true", True),
        (ready_made, None, True),
        (engines_own, "false", False),
        (teams, None, False),
        (teams, "true", True),
        (teams, "false", False),
    ],
)
def test_the_engine_s_own_app_uses_them_and_a_team_s_if_it_asks_for_them(
    app: Any, value: str | None, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    assert is_wanted(consumer_of(app())) is wanted


def test_they_are_used_by_processes_behind_an_event_loop_only() -> None:
    assert not is_wanted(consumer_of(engines_own(), prefork=False))
    assert not is_wanted(consumer_of(engines_own(), event_loop=False))


@pytest.mark.parametrize(
    ("celery_internals", "expected"),
    [(None, redis_transport.Transport), (True, redis_transport.Transport), (False, redis.Transport)],
)
def test_the_setting_decides_on_the_transport_of_producers_and_the_engine_s_workers(
    celery_internals: bool | None, expected: type
) -> None:
    app = producer_app(Settings(celery_internals=celery_internals))

    assert type(app.connection_for_write().transport) is expected


@pytest.mark.parametrize(
    "internal", redis_transport.INTERNALS, ids=lambda internal: f"{internal.of}.{internal.name}"
)
def test_a_kombu_that_lacks_an_attribute_is_used_with_its_own_transport_and_one_line_says_so(
    internal: Internal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner: Any = {
        "Channel": redis.Channel,
        "Transport": redis.Transport,
        "MultiChannelPoller": redis.MultiChannelPoller,
        "QoS": virtual.QoS,
    }[internal.of]
    for home in [each for each in owner.__mro__ if internal.name in vars(each)]:
        monkeypatch.delattr(home, internal.name)

    transports = [producer_app(Settings()).connection_for_write().transport for _ in range(2)]

    assert [type(transport) for transport in transports] == [redis.Transport] * 2
    [line] = caplog.messages
    assert f"{internal.of}.{internal.name} is missing" in line
    assert "Its own Redis transport is used" in line


def test_a_method_of_kombu_that_takes_other_arguments_counts_as_changed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis.Channel, "_brpop_start", lambda self: None)

    transport = producer_app(Settings()).connection_for_write().transport

    assert type(transport) is redis.Transport
    [line] = caplog.messages
    assert "Channel._brpop_start is another (function)" in line
