"""Do the workers have the code of deployed workflows, and do they run the same release?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workflow_engine.broker.inspection import WorkerReport
from workflow_engine.health.doctor.finding import Finding, first_few, ok, problem, warning
from workflow_engine.health.doctor.postgres import CodeInUse
from workflow_engine.nodes.registry import registry

KNOWN = "Do the workers have the code of deployed workflows?"
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
    yield _releases(reporting)


def missing_code(
    reports: Sequence[WorkerReport], code: Sequence[CodeInUse], default_queue: str
) -> dict[str, tuple[list[str], list[str]]]:
    """Return the code that some worker of its queue lacks, by node type or function.

    Each comes with two lists: the workers that lack it, and those that have it.
    """
    found: dict[str, tuple[list[str], list[str]]] = {}
    for each in code:
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
        return problem(
            KNOWN,
            f"none has {first_few(nowhere)}, which {first_few(users)} needs",
            f"{_remedy(nowhere)}, and restart them; until then its nodes wait, and fail after "
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


def _remedy(names: Sequence[str]) -> str:
    extras = registry.extras(names)
    remedies = [f"run `pip install '{requirement}'` where the workers run" for requirement in extras]
    if any(registry.find(name) is None for name in names):
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
