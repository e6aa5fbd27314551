"""What the broker and the workers report about themselves, over Celery's remote control."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from workflow_engine.broker.dispatcher import producer_app
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.errors import BrokerUnavailable
from workflow_engine.settings import Settings

REPORT_COMMAND = "workflow_engine_report"

TASK_OPTIONS = ("acks_late", "reject_on_worker_lost", "rate_limit", "expires")
"""Options of tasks that the doctor judges."""


def connect_to_broker(settings: Settings, timeout: float, app: Celery | None = None) -> None:
    """Connect once to the broker of the app, or else of the settings.

    Raises `BrokerUnavailable`.
    """
    connection = connection_with_timeout(app or producer_app(settings), timeout)
    try:
        with connection:
            connection.connect()
    except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
        raise BrokerUnavailable(f"the broker does not respond: {error}") from error


@dataclass(frozen=True)
class WorkerFacts:
    """What the engine inside a worker reports about that worker, in reply to the command `REPORT_COMMAND`."""

    release: str
    """The release of the package `workflow-engine`."""
    format: int
    """The newest form of messages, contexts and rows that it reads."""
    node_types: frozenset[str]
    """The kinds that it can run: `logic/merge`, `action/shop.charge`."""
    functions: frozenset[str]
    """The functions that nodes of type `action/python` can name."""
    pool: str
    """How it runs nodes: `prefork`, `threads`, `solo`, `gevent`, `eventlet`, or the class of another pool."""
    concurrency: int
    """Nodes that it runs at a time."""
    time_limit: float | None
    """Seconds after which Celery kills the process of a node; None: never."""
    soft_time_limit: float | None
    """Seconds after which Celery interrupts a node; None: never."""
    settings: Mapping[str, Any]
    """The engine's settings in this worker, without URLs, which may hold passwords."""
    clock: float
    """Its clock when it replied, in seconds since 1970."""
    uses_celery_internals: bool = False
    """Whether it writes to its pool by private attributes of Celery."""
    changed_internals: Sequence[str] = ()
    """Private attributes of Celery and kombu that it would use, and that differ from the known ones."""
    clock_ahead: float = 0.0
    """Seconds by which its clock is ahead of ours, give or take the time that its reply took."""

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any], received_at: float) -> WorkerFacts | None:
        """Return the facts in a worker's reply; None if this release does not know the form of the reply."""
        try:
            return cls(
                **{
                    **{field.name: reply[field.name] for field in fields(cls) if field.name in reply},
                    "node_types": frozenset(reply["node_types"]),
                    "functions": frozenset(reply["functions"]),
                    "clock_ahead": reply["clock"] - received_at,
                }
            )
        except (KeyError, TypeError):
            return None

    def knows(self, code: str) -> bool:
        """Return whether the worker has the code of this node type or function."""
        return code in self.node_types or code in self.functions


@dataclass(frozen=True)
class WorkerReport:
    """What a running worker reports about itself."""

    name: str
    queues: frozenset[str]
    """Those it consumes."""
    tasks: Mapping[str, Mapping[str, str]]
    """Its tasks by name, each with those of `TASK_OPTIONS` that it has, as text."""
    settings: Mapping[str, Any]
    """Celery's settings, defaults included; those that may be secret are masked."""
    facts: WorkerFacts | None = None
    """What the engine inside it reports; None if it has none, or did not reply in time."""


def ask_workers(settings: Settings, timeout: float, app: Celery | None = None) -> list[WorkerReport]:
    """Ask all running workers for reports; a worker that does not reply in `timeout` seconds is left out.

    `app` is the team's Celery app, whose broker and options lead to its workers; without one, those of the
    settings do. Takes at least `timeout`, because the number of workers is unknown. Each worker that stops
    replying in between adds at most five times as much. Raises `BrokerUnavailable`.
    """
    app = app or producer_app(settings)
    connection = connection_with_timeout(app, timeout)
    try:
        with connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1)
            names = sorted(app.control.inspect(timeout=timeout, connection=connection).ping() or ())
            if not names:
                return []
            ask = app.control.inspect(destination=names, timeout=timeout, connection=connection)
            queues, settings_of = ask.active_queues() or {}, ask.conf(with_defaults=True) or {}
            tasks = {
                name: dict(map(_described_task, described))
                for name, described in (ask.registered(*TASK_OPTIONS) or {}).items()
            }
            # Workers without the engine would log the unknown command as an error.
            able = [name for name in names if TASK_NAME in tasks.get(name, ())]
            facts = _ask_for_facts(app, able, timeout, connection)
    except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
        raise BrokerUnavailable(f"the broker does not respond: {error}") from error
    return [
        WorkerReport(
            name,
            frozenset(queue["name"] for queue in queues.get(name, ())),
            tasks.get(name, {}),
            settings_of.get(name, {}),
            facts.get(name),
        )
        for name in names
    ]


def _ask_for_facts(
    app: Celery, names: Sequence[str], timeout: float, connection: Connection
) -> dict[str, WorkerFacts]:
    """Return the facts by worker, each with the time at which it arrived."""
    facts: dict[str, WorkerFacts] = {}

    def take(reply: Mapping[str, Any]) -> None:
        received_at = time.time()
        for name, content in reply.items():
            if isinstance(content, Mapping) and (known := WorkerFacts.from_reply(content, received_at)):
                facts[name] = known

    if names:
        app.control.broadcast(
            REPORT_COMMAND,
            destination=list(names),
            reply=True,
            timeout=timeout,
            connection=connection,
            callback=take,
        )
    return facts


def connection_with_timeout(app: Celery, timeout: float) -> Connection:
    """Return a connection to the app's broker that waits `timeout` seconds for each reply."""
    connection: Connection = app.connection_for_write(connect_timeout=timeout)
    if connection.transport.driver_type == "redis":
        timeouts = {"socket_connect_timeout": timeout, "socket_timeout": timeout}
        connection.transport_options = {**(connection.transport_options or {}), **timeouts}
    return connection


def _described_task(description: str) -> tuple[str, dict[str, str]]:
    """Parse Celery's `name [key=value key=value]`."""
    name, _, details = description.partition(" ")
    return name, dict(pair.split("=", 1) for pair in details.strip("[]").split() if "=" in pair)
