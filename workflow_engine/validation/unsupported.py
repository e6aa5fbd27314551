"""Features of the format of definitions that this release does not have yet.

Such a key is refused by name instead of being ignored: a workflow whose retries silently do not happen
is worse than one that is not deployed. A change that adds a feature deletes its entry here. Node types need
no entry: they are refused until they are registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_engine.definition.problems import short_repr
from workflow_engine.errors import Problem
from workflow_engine.paths import at

NOT_IN_THIS_RELEASE: dict[str, dict[str, tuple[Any, ...]]] = {
    "node": {},
    "settings": {},
}
"""By part of a definition: keys, and the values that are accepted already."""


def not_in_this_release(part: str, content: Mapping[Any, Any], path: str) -> list[Problem]:
    """Return a problem for each key of a `node` or the `settings` that this release does not support."""
    return [
        Problem(at(path, key), _message(key, content[key], accepted))
        for key, accepted in NOT_IN_THIS_RELEASE[part].items()
        if content.get(key) is not None and content[key] not in accepted
    ]


def _message(key: str, value: Any, accepted: tuple[Any, ...]) -> str:
    refused = short_repr(value) if accepted else key
    instead = " or ".join(["leave it out", *(f"write {short_repr(each)}" for each in accepted)])
    return f"{refused} is not in this release; {instead}"
