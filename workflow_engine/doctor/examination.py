"""Asks everybody at once and puts the findings in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from workflow_engine.dispatch import WorkerReport, ask_workers
from workflow_engine.doctor import postgres, redis_server, workers
from workflow_engine.doctor.code import judge_code, judge_imports
from workflow_engine.doctor.finding import Finding
from workflow_engine.inquiry import Inquiry
from workflow_engine.settings import Settings

PATIENCE = 8.0
"""Seconds after which a server that has not answered is said to be silent."""

SERVER_TIMEOUT = 2.0
"""Seconds in which a server or worker answers one question."""

Judge = Callable[[redis_server.RedisFacts], Iterator[Finding]]


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
        (title, variable, judge, Inquiry(partial(redis_server.ask_redis, hurried, url)))
        for title, variable, judge, url in _redis_servers(settings)
    ]
    of_workers = Inquiry(partial(ask_workers, hurried, SERVER_TIMEOUT))
    findings: dict[str, list[Finding]] = {}
    facts = of_postgres.answer(deadline)
    code = facts.code_in_use if isinstance(facts, postgres.PostgresFacts) else None
    findings[f"Postgres at {postgres.place(settings.database_url)}"] = list(_of_postgres(facts))
    for title, variable, judge, inquiry in of_redis:
        findings[title] = list(_of_redis(inquiry.answer(deadline), variable, judge))
    findings["Workers"] = list(_of_workers(of_workers.answer(deadline), settings, code))
    findings["Code of workflows"] = [*imports, *([judge_code(code)] if code is not None else [])]
    return findings


def _redis_servers(settings: Settings) -> Iterator[tuple[str, str, Judge, str]]:
    """Title, environment variable, judge and URL of the Redis for contexts, and of others beside it."""
    judge, url = redis_server.judge_redis, settings.redis_url
    yield f"Redis at {postgres.place(url)}", "WORKFLOW_ENGINE_REDIS_URL", judge, url
    broker = settings.effective_broker_url
    if broker != url and broker.startswith(("redis://", "rediss://")):
        yield f"Redis (broker) at {postgres.place(broker)}", "WORKFLOW_ENGINE_BROKER_URL", judge, broker
    judge_locks = partial(redis_server.judge_lock_server, lock_expiry=settings.lock_expiry)
    for url in settings.lock_urls:
        yield f"Redis (locks) at {postgres.place(url)}", "WORKFLOW_ENGINE_LOCK_URLS", judge_locks, url


def _of_postgres(facts: postgres.PostgresFacts | Exception) -> Iterator[Finding]:
    if isinstance(facts, Exception):
        yield postgres.unreachable(facts)
    else:
        yield from postgres.judge_postgres(facts)


def _of_redis(facts: redis_server.RedisFacts | Exception, variable: str, judge: Judge) -> Iterator[Finding]:
    if isinstance(facts, Exception):
        yield redis_server.unreachable(facts, variable)
    else:
        yield from judge(facts)


def _of_workers(
    reports: Sequence[WorkerReport] | Exception,
    settings: Settings,
    code: Sequence[postgres.CodeInUse] | None,
) -> Iterator[Finding]:
    if isinstance(reports, Exception):
        yield workers.unreachable(reports)
    else:
        yield from workers.judge_workers(reports, settings, code)
