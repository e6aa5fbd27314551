"""Do the workers' clocks, limits, pools and settings fit, as the engine inside them reports?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workflow_engine.broker.inspection import WorkerFacts, WorkerReport
from workflow_engine.health.doctor.finding import Finding, first_few, ok, problem, warning
from workflow_engine.health.doctor.postgres import LARGEST_SKEW, CodeInUse
from workflow_engine.runner.time_limit import weakness_of_pool
from workflow_engine.settings import ENVIRONMENT_PREFIX, Settings

SHARED_SETTINGS = ("database_schema", "key_prefix")
"""Settings that workers and the programs that start executions must have in common."""

Known = list[tuple[str, WorkerFacts]]


def judge_worker_processes(
    reports: Sequence[WorkerReport],
    settings: Settings,
    code: Sequence[CodeInUse],
    database_ahead: float | None,
) -> Iterator[Finding]:
    """Yield a finding for each question about the facts of all workers.

    `database_ahead` is the number of seconds by which the clock of the database is ahead of ours; None if
    unknown. A worker that reported no facts is left out; there is no finding if no worker did.
    """
    known = [(report.name, report.facts) for report in reports if report.facts is not None]
    if not known:
        return
    yield _settings(known, settings)
    if database_ahead is not None:
        yield _clocks(known, database_ahead)
    yield _time_limits(known, code)
    yield _pools(known, code)
    yield _internals(known)


def _settings(known: Known, settings: Settings) -> Finding:
    question = "Do they use the same tables and keys as this process?"
    different = [
        f"{name} has {setting} {facts.settings.get(setting)!r}, not {getattr(settings, setting)!r}"
        for name, facts in known
        for setting in SHARED_SETTINGS
        if facts.settings.get(setting) != getattr(settings, setting)
    ]
    if not different:
        return ok(question, "yes")
    variables = " and ".join(f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in SHARED_SETTINGS)
    return problem(question, f"no: {first_few(different)}", f"set {variables} to the same values everywhere")


def _clocks(known: Known, database_ahead: float) -> Finding:
    question = "Do their clocks and the database's agree?"
    skews = {name: facts.clock_ahead - database_ahead for name, facts in known}
    wrong = {name: skew for name, skew in skews.items() if abs(skew) > LARGEST_SKEW}
    if not wrong:
        return ok(question, f"yes, within {max(0.1, *map(abs, skews.values())):.1f} s")
    skewed = [
        f"{name} is {abs(skew):,.0f} s {'ahead' if skew > 0 else 'behind'}" for name, skew in wrong.items()
    ]
    return warning(
        question,
        f"no: {first_few(skewed)}",
        "synchronise their machines by NTP; waits go by the database's clock, nodes and logs by the workers'",
    )


def _time_limits(known: Known, code: Sequence[CodeInUse]) -> Finding:
    question = "May a node take as long as it needs?"
    limits = {
        name: min(limit for limit in (facts.time_limit, facts.soft_time_limit) if limit)
        for name, facts in known
        if facts.time_limit or facts.soft_time_limit
    }
    if not limits:
        return ok(question, "yes, its own timeout is the only limit")
    lowest = min(limits.values())
    limit = f"Celery's time limit is {lowest:g} s on {first_few([n for n in limits if limits[n] == lowest])}"
    longer = sorted({each.workflow_id for each in code if each.timeout and each.timeout > lowest})
    if not longer:
        return ok(question, f"{limit}; a node that takes longer is ended")
    return warning(
        question,
        f"no: {limit}, below the timeout of nodes of {first_few(longer)}",
        "raise it for the engine's task alone, so that your own tasks keep theirs: "
        "task_annotations = {'workflow_engine.run_node': {'time_limit': …, 'soft_time_limit': …}}",
    )


def _pools(known: Known, code: Sequence[CodeInUse]) -> Finding:
    question = "Can a running node be ended without its worker?"
    others = [(name, facts.pool) for name, facts in known if facts.pool != "prefork"]
    if not others:
        return ok(question, "yes, each runs in a process of its own")
    where = f"not on {first_few([f'{name} ({pool})' for name, pool in others])}"
    limited = sorted({each.workflow_id for each in code if each.timeout})
    if not limited:
        return ok(question, f"{where}: one that crashes takes the worker with it")
    weaknesses = dict.fromkeys(weakness_of_pool(pool) or "its timeout is not certain" for _, pool in others)
    return warning(
        question,
        f"{where}, where nodes of {first_few(limited)} have a timeout: {'; '.join(weaknesses)}",
        "if they might ignore it, run them on workers with the prefork pool, with a queue of their own",
    )


def _internals(known: Known) -> Finding:
    question = "Is their Celery the one that this release knows?"
    changed = [
        f"{name}: {'; '.join(facts.changed_internals)}" for name, facts in known if facts.changed_internals
    ]
    if not changed:
        users = [name for name, facts in known if facts.uses_celery_internals]
        return ok(question, f"yes; its private parts are used by {first_few(users) or 'none'}")
    return warning(
        question,
        f"no, on {first_few(changed)}. They fall back to Celery's own code, and short nodes take longer",
        "install the releases of celery and kombu that this release of the engine requires, or a newer one",
    )
