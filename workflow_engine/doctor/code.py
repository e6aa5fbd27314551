"""Is the code that workflows need here? A producer can do without it; a worker cannot."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence

from workflow_engine.doctor.finding import Finding, ok, problem, warning
from workflow_engine.doctor.postgres import CodeInUse
from workflow_engine.node_types import NodeRegistry, registry
from workflow_engine.nodes import load_node_types

IMPORTABLE = "Can the modules with node types be imported?"
KNOWN = "Is the code that deployed workflows use known here?"
LONGEST_LIST = 8


def judge_imports(imports: Sequence[str]) -> Iterator[Finding]:
    """Import what the settings name, one finding for each module that cannot be.

    A module may do anything while it is imported, so that whatever it raises is an answer.
    """
    failed = False
    for module in ("", *imports):
        try:
            importlib.import_module(module) if module else load_node_types()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - see above
            failed = True
            name = f"module {module!r}" if module else "a package with the entry point workflow_engine.nodes"
            yield problem(
                IMPORTABLE,
                f"not {name}: {type(error).__name__}: {error}",
                "correct it, or its name in WORKFLOW_ENGINE_IMPORTS or --import"
                if module
                else f"correct or remove that package; run `{sys.executable} -m pip list` to find it",
            )
    if not failed:
        yield ok(
            IMPORTABLE, f"yes, {', '.join(imports)}" if imports else "yes, there are only the built-in ones"
        )


def judge_code(code: Sequence[CodeInUse], known: NodeRegistry = registry) -> Finding:
    """Whether the node types and functions that deployed workflows use are known in this process."""
    missing: dict[str, set[str]] = {}
    for each in code:
        kind = f"{each.type}/{each.sub_type}"
        if known.find(kind) is None:
            missing.setdefault(kind, set()).add(each.workflow_id)
        elif kind == "action/python" and each.function is not None and each.function not in known.functions:
            missing.setdefault(each.function, set()).add(each.workflow_id)
    if not missing:
        return ok(
            KNOWN,
            f"yes, of all {len({each.workflow_id for each in code})}" if code else "nothing is deployed",
        )
    listed = [f"{name} ({', '.join(sorted(users)[:3])})" for name, users in sorted(missing.items())]
    more = f" and {len(listed) - LONGEST_LIST} more" if len(listed) > LONGEST_LIST else ""
    return warning(
        KNOWN,
        f"not {', '.join(listed[:LONGEST_LIST])}{more}",
        "if workers run here, name their modules in WORKFLOW_ENGINE_IMPORTS (to try it: --import MODULE)",
    )
