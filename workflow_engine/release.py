"""What the format of a definition has and this release does not do yet.

Such a key is refused by name instead of being ignored: a workflow whose retries silently do not happen
is worse than one that is not deployed. Whoever builds one of these deletes its entry. Node types need
none: they are refused until they are registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_engine.errors import Problem
from workflow_engine.model_problems import shown
from workflow_engine.problem_paths import at

NOT_IN_THIS_RELEASE: dict[str, dict[str, tuple[Any, ...]]] = {
    "node": {"onCrash": ()},
    "settings": {"concurrency": (1,)},
}
"""By part of a definition: keys, and the values that are accepted already."""


def not_in_this_release(part: str, content: Mapping[Any, Any], path: str) -> list[Problem]:
    """The keys of a `node` or the `settings` at `path` that ask for more than this release does."""
    return [
        Problem(at(path, key), _message(key, content[key], accepted))
        for key, accepted in NOT_IN_THIS_RELEASE[part].items()
        if content.get(key) is not None and content[key] not in accepted
    ]


def _message(key: str, value: Any, accepted: tuple[Any, ...]) -> str:
    refused = shown(value) if accepted else key
    instead = " or ".join(["leave it out", *(f"write {shown(each)}" for each in accepted)])
    return f"{refused} is not in this release; {instead}"
