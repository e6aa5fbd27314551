"""Secrets: looked up while a node runs, remembered for as long, and hidden from everything that is kept.

What is masked is what was revealed: a secret that no expression of the node read cannot be in its output,
so nothing but the names a config mentions is ever asked of the provider.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

from workflow_engine.json_values import encode

SecretProvider = Callable[[str], str | None]
"""Answers with the value of a secret by its name, or None if there is no such secret."""

MASK = "***"
ENVIRONMENT_PREFIX = "WORKFLOW_SECRET_"


def secret_in_environment(name: str) -> str | None:
    """The default provider: the environment variable `WORKFLOW_SECRET_<NAME>` of this process."""
    return os.environ.get(ENVIRONMENT_PREFIX + name)


class Secrets:
    """The secrets that one run of a node has read, each asked of the provider once."""

    def __init__(self, provider: SecretProvider = secret_in_environment) -> None:
        self._provider = provider
        self._revealed: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        """The value of a secret. Raises KeyError if the provider has none of this name."""
        if name not in self._revealed:
            if (value := self._provider(name)) is None:
                raise KeyError(name)
            self._revealed[name] = value
        return self._revealed[name]

    def __repr__(self) -> str:
        return f"Secrets(revealed: {', '.join(sorted(self._revealed)) or 'none'})"

    def mask(self, value: Any) -> Any:
        """The JSON value with `***` in place of every revealed secret, in all its strings and keys.

        Also hidden are the forms a secret takes inside JSON and URLs. The value itself is not changed;
        it is returned as it is if nothing was revealed.
        """
        return _masked(value, self._forms()) if self._revealed else value

    def _forms(self) -> list[str]:
        """Every text to hide, the longest first: a secret may be a part of another."""
        secrets = [secret for secret in self._revealed.values() if secret]
        forms = {form for secret in secrets for form in (secret, _in_json(secret), *_in_urls(secret))}
        return sorted(forms, key=len, reverse=True)


def _in_json(secret: str) -> str:
    return encode(secret).decode()[1:-1]


def _in_urls(secret: str) -> tuple[str, str, str]:
    return quote(secret), quote(secret, safe=""), quote_plus(secret)


def _masked(value: Any, forms: list[str]) -> Any:
    if isinstance(value, str):
        for form in forms:
            value = value.replace(form, MASK)
        return value
    if isinstance(value, dict):
        return {_masked(key, forms): _masked(item, forms) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item, forms) for item in value]
    return value
