"""Checks that private attributes of Celery and kombu are the ones that this release was written for.

Private attributes may change with any release of theirs. So each part of the engine that uses some lists them
in a table, and checks the live objects first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

MISSING = object()


class Internal(NamedTuple):
    """An attribute that is not part of a documented interface."""

    of: str
    """The name of the class or module that has it."""
    name: str
    fits: Callable[[Any], bool]
    """Return whether a value is of the kind that is known."""

    def change(self, value: object) -> str | None:
        """Return what is wrong with the value; None if nothing is."""
        if value is MISSING:
            return f"{self.of}.{self.name} is missing"
        return None if self.fits(value) else f"{self.of}.{self.name} is another ({type(value).__name__})"


def changes(internals: Iterable[Internal], owners: Mapping[str, object]) -> list[str]:
    """Return a text for each attribute that is missing or of another kind.

    `owners` holds the living object, class or module for each name that `Internal.of` mentions.
    """
    found = (each.change(getattr(owners[each.of], each.name, MISSING)) for each in internals)
    return [change for change in found if change is not None]


def anything(value: object) -> bool:
    """Accept every value, for an attribute that is set later."""
    return True


def a(kind: type) -> Callable[[Any], bool]:
    """Accept instances of a class."""
    return lambda value: isinstance(value, kind)


def having(method: str) -> Callable[[Any], bool]:
    """Accept objects with such a method."""
    return lambda value: callable(getattr(value, method, None))


def callable_with(*arguments: str) -> Callable[[Any], bool]:
    """Accept callables that take these positional arguments."""

    def fits(value: Any) -> bool:
        try:
            inspect.signature(value).bind(*arguments)
        except ValueError:  # it is written in C and has no signature
            return True
        except TypeError:  # it is not callable, or takes others
            return False
        return True

    return fits
