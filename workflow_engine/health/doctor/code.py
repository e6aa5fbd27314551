"""Is the code that workflows need here? A producer can do without it; a worker cannot."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from workflow_engine.errors import ModuleFailed
from workflow_engine.health.doctor.finding import Finding, first_few, ok, problem, warning
from workflow_engine.health.doctor.postgres import CodeInUse
from workflow_engine.nodes.loading import load_node_types
from workflow_engine.nodes.registry import NodeRegistry, registry

IMPORTABLE = "Can the modules with node types be imported?"
KNOWN = "Is the code of deployed workflows known here?"
LONGEST_LIST = 8


def judge_imports(imports: Sequence[str]) -> Iterator[Finding]:
    """Import the modules that the settings name; yield a finding for each that fails."""
    failed = False
    for module in ("", *imports):
        try:
            load_node_types([module] if module else [])
        except ModuleFailed as failure:
            failed = True
            name = (
                f"module {module!r}"
                if module == failure.module
                else f"{failure.module!r}, the entry point of a package in workflow_engine.nodes"
            )
            yield problem(
                IMPORTABLE,
                f"not {name}: {failure.reason}",
                "correct it, or its name in WORKFLOW_ENGINE_IMPORTS or --import"
                if module
                else f"correct or remove that package; run `{sys.executable} -m pip list` to find it",
            )
    if not failed:
        yield ok(IMPORTABLE, f"yes, {', '.join(imports)}" if imports else "yes, there are only built-in ones")


def judge_code(code: Sequence[CodeInUse], known: NodeRegistry = registry) -> Finding:
    """Judge whether this process has the node types and functions that deployed workflows use."""
    missing: dict[str, set[str]] = {}
    for each in code:
        kind = f"{each.type}/{each.sub_type}"
        if (found := known.find(kind)) is None or found.lacks is not None:
            missing.setdefault(kind, set()).add(each.workflow_id)
        elif kind == "action/python" and each.function is not None and each.function not in known.functions:
            missing.setdefault(each.function, set()).add(each.workflow_id)
    if not missing:
        return ok(
            KNOWN,
            f"yes, of all {len({each.workflow_id for each in code})}" if code else "nothing is deployed",
        )
    unknown = [f"{name} ({', '.join(sorted(users)[:3])})" for name, users in sorted(missing.items())]
    remedies = [f"run `pip install '{requirement}'`" for requirement in known.extras(missing)]
    if any(known.find(kind) is None for kind in missing):
        remedies.append("name their modules in WORKFLOW_ENGINE_IMPORTS (to try it: --import MODULE)")
    return warning(
        KNOWN, f"not {first_few(unknown, LONGEST_LIST)}", f"if workers run here, {' and '.join(remedies)}"
    )
