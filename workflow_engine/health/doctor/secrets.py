"""Can the secrets in this environment be distinguished from other text, so that they can be masked?"""

from __future__ import annotations

from collections.abc import Mapping

from workflow_engine.expressions.secret_spellings import RULE, is_recognisable
from workflow_engine.expressions.secrets import ENVIRONMENT_PREFIX
from workflow_engine.health.doctor.finding import Finding, ok, problem

MASKABLE = "Can secrets be masked?"


def judge_secrets(environment: Mapping[str, str]) -> Finding:
    """Judge whether the secrets of an environment can be masked; a worker may have others in its own."""
    names = sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX))
    plain = [name for name in names if not is_recognisable(environment[name])]
    if not plain:
        return ok(MASKABLE, f"yes, all {len(names)} of this environment" if names else "there are none here")
    return problem(
        MASKABLE,
        f"not {', '.join(plain)}: too short or too plain to be distinguished from other text",
        f"use longer ones ({RULE}), or make them variables if they are not secret; a node that inserts one "
        "into a text fails",
    )
