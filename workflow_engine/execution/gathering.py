"""Gathering: what threads ask for while it is done for another of them is collected, and done together next.

A turn of one thread lasts as long as a server takes. Requests of others would only queue there meanwhile. So
the first thread that waits gets all of them for its turn: one round trip serves every one.

A process that runs one node at a time never finds another thread's turn under way.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

PassOn = Callable[[], None]
Serve = Callable[[Sequence[Item], PassOn], None]
"""Does what was asked for, of one thread or several. It may pass on before its end, so that the next turn
begins; the threads whose items it has go on after its end."""


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class _Request(Generic[Item]):
    """What one thread asks for."""

    item: Item
    turn: threading.Lock = field(default_factory=_held_lock)
    """Released once the item was served, or this thread has to serve what is in `group`."""
    group: Sequence[_Request[Item]] = ()


class Gathering(Generic[Item]):
    """Collects the items of threads by a key. `number_that_fit` says how many make up a group at most."""

    def __init__(self, number_that_fit: Callable[[Sequence[Item]], int] = len) -> None:
        self._number_that_fit = number_that_fit
        self._forget_parent()
        _instances.add(self)

    def served(self, key: str, item: Item, serve: Serve[Item]) -> None:
        """Return once this item was served, alone or with others, by this thread or another one.

        `serve` is called in one thread of a group, and its errors are raised there alone. Then the others
        return as well: each has to see whether its own item was served.
        """
        request = _Request(item)
        if not self._is_first(key, request):
            request.turn.acquire()
        if request.group:
            self._serve(key, request.group, serve)

    def waiting(self, key: str) -> int:
        """Return how many items wait for the next turn."""
        return len(self._collected.get(key, ()))

    def _is_first(self, key: str, request: _Request[Item]) -> bool:
        """Return whether no turn is under way; else the item is collected for the next one."""
        with self._guard:
            collected = self._collected.get(key)
            if collected is not None:
                collected.append(request)
                return False
            self._collected[key] = []
            request.group = (request,)
            return True

    def _serve(self, key: str, group: Sequence[_Request[Item]], serve: Serve[Item]) -> None:
        has_passed_on = False

        def pass_on() -> None:
            nonlocal has_passed_on
            if not has_passed_on:
                has_passed_on = True
                self._pass_on(key)

        try:
            serve([request.item for request in group], pass_on)
        finally:
            pass_on()
            for request in group[1:]:
                request.turn.release()

    def _pass_on(self, key: str) -> None:
        """Let the first thread that waits serve what was collected meanwhile."""
        with self._guard:
            collected = self._collected.pop(key)
            if not collected:
                return
            number = max(1, self._number_that_fit([request.item for request in collected]))
            group, self._collected[key] = collected[:number], collected[number:]
        group[0].group = group
        group[0].turn.release()

    def _forget_parent(self) -> None:
        self._guard = threading.Lock()
        self._collected: dict[str, list[_Request[Item]]] = {}
        """For each key with a turn under way: what the next one serves."""


_instances: weakref.WeakSet[Gathering[Any]] = weakref.WeakSet()


def _forget_parents() -> None:
    for instance in _instances:
        instance._forget_parent()


# A forked process has none of its parent's threads, and would wait for their turns for ever.
os.register_at_fork(after_in_child=_forget_parents)
