"""Asks everybody at once and puts the findings in order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeVar

from workflow_engine.dispatch import WorkerReport, ask_workers
from workflow_engine.doctor import postgres, redis_server, workers
from workflow_engine.doctor.code import judge_code, judge_imports
from workflow_engine.doctor.finding import Finding
from workflow_engine.settings import Settings

PATIENCE = 8.0
"""Seconds after which a server that has not answered is said to be silent."""

SERVER_TIMEOUT = 2.0
"""Seconds in which a server or worker answers one question."""

Facts = TypeVar("Facts")


class Inquiry(Generic[Facts]):
    """Questions put to a server by a thread of their own, which is left behind if the server keeps silent."""

    def __init__(self, ask: Callable[[], Facts]) -> None:
        self._answers: queue.SimpleQueue[Facts | Exception] = queue.SimpleQueue()
        threading.Thread(target=self._put, args=(ask,), daemon=True).start()

    def answer(self, deadline: float) -> Facts | Exception:
        """The facts, or why there are none; `deadline` is of `time.monotonic`."""
        try:
            return self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return TimeoutError("it accepts connections and does not answer")

    def _put(self, ask: Callable[[], Facts]) -> None:
        try:
            self._answers.put(ask())
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a server or its URL is the answer
            self._answers.put(error)


def examine(settings: Settings, patience: float = PATIENCE) -> dict[str, list[Finding]]:
    """All findings, by topic. Takes `patience` seconds at most, and what the modules of the settings take."""
    hurried = settings.model_copy(
        update={
            "database_timeout": min(settings.database_timeout, SERVER_TIMEOUT),
            "redis_timeout": min(settings.redis_timeout, SERVER_TIMEOUT),
        }
    )
    imports = list(judge_imports(settings.imports))  # first, or importing would slow down the answers
    deadline = time.monotonic() + patience
    of_postgres = Inquiry(partial(postgres.ask_postgres, hurried))
    of_redis = [
        (title, variable, Inquiry(partial(redis_server.ask_redis, hurried, url)))
        for title, variable, url in _redis_servers(settings)
    ]
    of_workers = Inquiry(partial(ask_workers, hurried, SERVER_TIMEOUT))
    findings: dict[str, list[Finding]] = {}
    facts = of_postgres.answer(deadline)
    code = facts.code_in_use if isinstance(facts, postgres.PostgresFacts) else None
    findings[f"Postgres at {postgres.place(settings.database_url)}"] = list(_of_postgres(facts))
    for title, variable, inquiry in of_redis:
        findings[title] = list(_of_redis(inquiry.answer(deadline), variable))
    findings["Workers"] = list(_of_workers(of_workers.answer(deadline), settings, code))
    findings["Code of workflows"] = [*imports, *([judge_code(code)] if code is not None else [])]
    return findings


def _redis_servers(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Title, environment variable and URL of the Redis for contexts and, if it is another, of the broker."""
    yield f"Redis at {postgres.place(settings.redis_url)}", "WORKFLOW_ENGINE_REDIS_URL", settings.redis_url
    broker = settings.effective_broker_url
    if broker != settings.redis_url and broker.startswith(("redis://", "rediss://")):
        yield f"Redis (broker) at {postgres.place(broker)}", "WORKFLOW_ENGINE_BROKER_URL", broker


def _of_postgres(facts: postgres.PostgresFacts | Exception) -> Iterator[Finding]:
    if isinstance(facts, Exception):
        yield postgres.unreachable(facts)
    else:
        yield from postgres.judge_postgres(facts)


def _of_redis(facts: redis_server.RedisFacts | Exception, variable: str) -> Iterator[Finding]:
    if isinstance(facts, Exception):
        yield redis_server.unreachable(facts, variable)
    else:
        yield from redis_server.judge_redis(facts)


def _of_workers(
    reports: Sequence[WorkerReport] | Exception,
    settings: Settings,
    code: Sequence[postgres.CodeInUse] | None,
) -> Iterator[Finding]:
    if isinstance(reports, Exception):
        yield workers.unreachable(reports)
    else:
        yield from workers.judge_workers(reports, settings, code)
