"""Do the workers have the code of deployed workflows, and do they run the same release?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from workflow_engine.broker.inspection import WorkerReport
from workflow_engine.health.doctor.finding import Finding, first_few, ok, problem, warning
from workflow_engine.health.doctor.postgres import CodeInUse
from workflow_engine.nodes.registry import registry

KNOWN = "Do the workers have the code of deployed workflows?"
NO_EFFECT = ("rate_limit", "expires")
NOT_APPLIED = "Do options of tasks that run as nodes still apply?"
ONE_RELEASE = "Do the workers run the same release?"


def judge_worker_code(
    reports: Sequence[WorkerReport], code: Sequence[CodeInUse], default_queue: str
) -> Iterator[Finding]:
    """Judge the workers' node types, functions and releases against what is deployed.

    A worker that reported none of them is left out; there is no finding if no worker did.
    """
    reporting = [report for report in reports if report.facts is not None]
    if not reporting:
        return
    yield _known(reporting, code, default_queue)
    yield from _options_of_tasks(reporting, code)
    yield _releases(reporting)


def missing_code(
    reports: Sequence[WorkerReport], code: Sequence[CodeInUse], default_queue: str
) -> dict[str, tuple[list[str], list[str]]]:
    """Return the code that some worker of its queue lacks, by node type or function.

    Each comes with two lists: the workers that lack it, and those that have it. A task that has a route of
    its own is looked for on all workers.
    """
    found: dict[str, tuple[list[str], list[str]]] = {}
    for each in code:
        if each.task is not None:
            having = [report.name for report in reports if each.task in report.tasks]
            without = [] if having else [report.name for report in reports if report.facts is not None]
            found[each.task] = (without, having)
            continue
        for report in reports:
            if report.facts is None or (each.queue or default_queue) not in report.queues:
                continue
            without, having = found.setdefault(each.name, ([], []))
            names = having if report.facts.knows(each.name) else without
            if report.name not in names:
                names.append(report.name)
    return {name: (without, having) for name, (without, having) in found.items() if without}


def _known(reports: Sequence[WorkerReport], code: Sequence[CodeInUse], default_queue: str) -> Finding:
    found = missing_code(reports, code, default_queue)
    nowhere = sorted(name for name, (_, having) in found.items() if not having)
    if nowhere:
        users = sorted({each.workflow_id for each in code if each.name in nowhere})
        remedy = _remedy(nowhere, {each.task for each in code})
        return problem(
            KNOWN,
            f"none has {first_few(nowhere)}, which {first_few(users)} needs",
            f"{remedy}, and restart them; until then its nodes wait, and fail after "
            "WORKFLOW_ENGINE_UNKNOWN_TYPE_TIMEOUT seconds",
        )
    if found:
        without = sorted({name for workers, _ in found.values() for name in workers})
        return warning(
            KNOWN,
            f"not all: {first_few(sorted(found))} is missing on {first_few(without)}",
            "finish the deployment, or give these nodes a queue that only the other workers consume; until "
            "then they wait until one of the others takes their message",
        )
    return ok(KNOWN, "yes, all of them")


def _options_of_tasks(reports: Sequence[WorkerReport], code: Sequence[CodeInUse]) -> Iterator[Finding]:
    """Yield a finding about the options of tasks that have no effect on nodes, if any node runs a task."""
    tasks = {each.task for each in code if each.task is not None}
    if not tasks:
        return
    options = {
        name: report.tasks[name] for report in reports for name in sorted(tasks) if name in report.tasks
    }
    without_effect = [
        f"{name} ({', '.join(f'{option}={has[option]}' for option in NO_EFFECT if option in has)})"
        for name, has in options.items()
        if any(option in has for option in NO_EFFECT)
    ]
    if without_effect:
        yield warning(
            NOT_APPLIED,
            f"not those of {first_few(without_effect)}",
            "a node is neither rate-limited nor expired by its task; give the node `limits` or a "
            "`queueTimeout`, and remove these options if nothing else sends the task",
        )
        return
    early = [name for name, has in options.items() if has.get("acks_late") != "True"]
    again = (
        f"; {first_few(early)} would not run again as a task if its process dies, and does as a node: "
        "`onCrash: fail` forbids it"
    )
    yield ok(NOT_APPLIED, f"yes{again if early else ''}")


def _remedy(names: Sequence[str], tasks: Collection[str | None]) -> str:
    extras = registry.extras(names)
    remedies = [f"run `pip install '{requirement}'` where the workers run" for requirement in extras]
    if any(name in tasks for name in names):
        remedies.append(
            "import its module in the Celery app of the workers (`include`, `autodiscover_tasks`)"
        )
    if any(registry.find(name) is None and name not in tasks for name in names):
        remedies.append("name its module in WORKFLOW_ENGINE_IMPORTS of the workers")
    return " and ".join(remedies)


def _releases(reports: Sequence[WorkerReport]) -> Finding:
    workers_of: dict[str, list[str]] = {}
    for report in reports:
        if report.facts is not None:
            workers_of.setdefault(report.facts.release, []).append(report.name)
    if len(workers_of) == 1:
        return ok(ONE_RELEASE, f"yes, {next(iter(workers_of))}")
    releases = "; ".join(f"{release} on {first_few(names)}" for release, names in sorted(workers_of.items()))
    return warning(ONE_RELEASE, f"no: {releases}", "finish the deployment; nothing is lost until then")
