"""Secrets: looked up while a node runs, kept for that long, and hidden in everything that is stored.

The rule:

- What is stored as text *about* a run (errors, their types, details and tracebacks, progress, the evaluated
  config) has `***` in place of every secret, in all its usual spellings, and of its single lines.
- What is stored as *data* for later nodes (outputs, variables) has `***` in place of whole secrets, and is
  unchanged otherwise. Two keys that would become one are refused.
- What is looked up by its text (correlation ids, names of events) cannot be masked, and is refused.
- A secret that could be anything, such as `shop` or `1`, cannot be searched for. It may be used as a value of
  its own; put into a text it is refused. Data is not searched for it, and texts only for words that equal it.

Only revealed secrets are masked. A secret that no expression of the node read cannot be in its output, so
the provider is called only for the names that a config mentions.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from workflow_engine.errors import InvalidValue
from workflow_engine.expressions import secret_spellings as spellings
from workflow_engine.json_values import storable_text
from workflow_engine.paths import at

SecretProvider = Callable[[str], str | None]
"""Returns the value of a secret by its name, or None if there is no such secret."""

MASK = "***"
ENVIRONMENT_PREFIX = "WORKFLOW_SECRET_"


def secret_in_environment(name: str) -> str | None:
    """Return the environment variable `WORKFLOW_SECRET_<NAME>` of this process; the default provider."""
    return os.environ.get(ENVIRONMENT_PREFIX + name)


class Secrets:
    """The secrets that one run of a node has read, each fetched from the provider once."""

    def __init__(self, provider: SecretProvider = secret_in_environment) -> None:
        self._provider = provider
        self._revealed: dict[str, str] = {}
        self._masking: Masking | None = None

    def __getitem__(self, name: str) -> str:
        """Return the value of a secret.

        Raises KeyError if the provider has none of this name, `InvalidValue` if it is empty or not Unicode.
        """
        if name not in self._revealed:
            if (value := self._provider(name)) is None:
                raise KeyError(name)
            if not value or storable_text(value) != value:
                problem = "not text" if value else "empty"
                raise InvalidValue(
                    at("_secrets", name), f"the secret is {problem}; give it a value where the workers run"
                )
            self._revealed[name] = value
            self._masking = None
        return self._revealed[name]

    def __bool__(self) -> bool:
        """Return whether a secret has been read."""
        return bool(self._revealed)

    def __repr__(self) -> str:
        return f"Secrets(revealed: {', '.join(sorted(self._revealed)) or 'none'})"

    def check_use_in_text(self, names: Iterable[str]) -> None:
        """Raise `InvalidValue` if one of these secrets was read and could be mistaken for other text."""
        for name in names:
            if name in self._revealed and not spellings.is_recognisable(self._revealed[name]):
                raise InvalidValue(
                    at("_secrets", name),
                    "the secret is too short or too plain to be put into a text, where it could not be "
                    f"masked ({spellings.RULE}); use a longer one, or pass it as a value of its own",
                )

    def check_absence(self, text: str, path: str) -> None:
        """Raise `InvalidValue` if a text that cannot be masked has a secret in it; `path` names the text."""
        for name, secret in self._revealed.items():
            if secret == text or (spellings.is_recognisable(secret) and Masking([secret]).of(text) != text):
                raise InvalidValue(
                    path,
                    f"the secret {name} is in it, and it is stored unmasked; use a value that is not secret",
                )

    def mask_text(self, text: str) -> str:
        """Return a text about the run with `***` in place of every secret, in any spelling."""
        return self._masks.of(text) if self._revealed else text

    def mask_texts(self, value: Any) -> Any:
        """Return a JSON value that is kept for readers only, with all its texts and keys masked."""
        return _with_masked_texts(value, self._masks.of) if self._revealed else value

    def mask_data(self, value: Any, path: str) -> Any:
        """Return a JSON value that later nodes read, with `***` in place of whole secrets.

        Raises `InvalidValue`, with the path, where two keys of an object would become one.
        """
        hidden = self._masks.hidden_in_data if self._revealed else ()
        return _masked_data(value, hidden, path) if hidden else value

    @property
    def _masks(self) -> Masking:
        if self._masking is None:
            self._masking = Masking(self._revealed.values())
        return self._masking


class Masking:
    """Replaces some secrets, in all their spellings, by `***`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        recognisable: list[str] = []
        plain: list[str] = []
        for secret in secrets:
            (recognisable if spellings.is_recognisable(secret) else plain).append(secret)
        whole = {form for secret in recognisable for form in spellings.whole(secret)}
        lines = {line for secret in recognisable for line in spellings.lines(secret)}
        self._hidden = _longest_first(whole | lines)
        self._beginnings = [each for secret in recognisable for each in spellings.beginnings(secret)]
        self._words = [re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") for word in _longest_first(plain)]
        # A line of a key file in JSON may also be one of other data; one of Base64 is not.
        self.hidden_in_data = _longest_first(whole | {line for line in lines if len(line.split()) == 1})

    def of(self, text: str) -> str:
        """Return the text with `***` in place of the secrets."""
        text = _replaced(text, self._hidden)
        for beginning, whole in self._beginnings:
            text = _without_beginning(text, beginning, whole)
        for word in self._words:
            text = word.sub(MASK, text)
        return text


def _masked_data(value: Any, hidden: Sequence[str], path: str) -> Any:
    if isinstance(value, str):
        return _replaced(value, hidden)
    if isinstance(value, dict):
        masked = {
            (name := _replaced(key, hidden)): _masked_data(item, hidden, at(path, name))
            for key, item in value.items()
        }
        if len(masked) != len(value):
            raise InvalidValue(path, "several of its keys hold secrets and would become one key once masked")
        return masked
    if isinstance(value, list):
        return [_masked_data(item, hidden, at(path, index)) for index, item in enumerate(value)]
    return value


def _with_masked_texts(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        masked: dict[str, Any] = {}
        for key, item in value.items():
            name = mask(key) if isinstance(key, str) else key
            while name in masked:
                name += "*"
            masked[name] = _with_masked_texts(item, mask)
        return masked
    if isinstance(value, list | tuple):
        return [_with_masked_texts(item, mask) for item in value]
    return value


def _without_beginning(text: str, beginning: str, whole: str) -> str:
    """Mask the beginnings of a truncated secret, each as far as it agrees with the secret."""
    kept: list[str] = []
    position = 0
    while (start := text.find(beginning, position)) >= 0:
        kept += text[position:start], MASK
        agreeing = map(str.__eq__, text[start : start + len(whole)], whole)
        position = start + sum(1 for _ in itertools.takewhile(bool, agreeing))
    return "".join([*kept, text[position:]])


def _longest_first(forms: Iterable[str]) -> list[str]:
    """Return the forms in the order in which to replace them, since one secret may be part of another."""
    return sorted(set(forms), key=lambda form: (-len(form), form))


def _replaced(text: str, hidden: Iterable[str]) -> str:
    for form in hidden:
        text = text.replace(form, MASK)
    return text
