"""Canvases of every shape that a team's tasks can form, each with the value that Celery gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from celery import Signature, chain, chord, chunks, group
from kombu.utils import json as kombu_json

from support import shop
from support.shop import add, mul, same, total

Make = Callable[[], Signature]
CELERYS = object()
"""Stands for the value that Celery's eager mode gives."""


def numbers(*values: int) -> group:
    """Return a group whose members return these numbers."""
    return group(add.s(each) for each in values)


SHAPES: dict[str, tuple[Make, Any]] = {
    # one task
    "task": (lambda: add.s(1, 2), CELERYS),
    "task with keywords": (lambda: same.s(1, a=2), CELERYS),
    "immutable task": (lambda: add.si(1, 2), CELERYS),
    "task without arguments": (same.s, CELERYS),
    "task by its name": (lambda: shop.app.signature("shop.add", (1, 2)), CELERYS),
    "task with a date": (lambda: same.s(shop.MOMENT), CELERYS),
    "task that returns a date": (shop.now.s, CELERYS),
    "task with nested data": (lambda: same.s({"a": [1, {"b": None}]}), CELERYS),
    # chains
    "chain of two": (lambda: add.s(1, 2) | add.s(3), CELERYS),
    "chain of four": (lambda: chain(add.s(1), mul.s(2), mul.s(3), add.s(4)), CELERYS),
    "chain with an immutable link": (lambda: add.s(1) | add.si(5, 6) | add.s(1), CELERYS),
    "chain with keywords": (lambda: add.s(1) | same.s(a=1) | same.s(b=2), CELERYS),
    "chain of one": (lambda: chain(add.s(1, 1)), CELERYS),
    "chain of chains": (lambda: chain(chain(add.s(1), add.s(2)), chain(add.s(3), add.s(4))), CELERYS),
    "chain of dates": (lambda: shop.now.s() | shop.next_day.s() | same.s(), CELERYS),
    "chain that passes null": (lambda: same.s(None) | same.s(), CELERYS),
    "chain that passes a list": (lambda: same.s([1, 2]) | total.s(), CELERYS),
    "long chain": (lambda: chain(add.s(0), *(add.s(1) for _ in range(20))), CELERYS),
    # groups
    "group": (lambda: group(add.s(1, 1), add.s(2, 2), mul.s(3, 3)), CELERYS),
    "group of one": (lambda: group(add.s(1, 1)), CELERYS),
    "empty group": (group, CELERYS),
    "group of a generator": (lambda: group(add.s(i, i) for i in range(5)), CELERYS),
    "group of chains": (lambda: group(add.s(1) | add.s(2), mul.s(2, 2) | add.s(1)), CELERYS),
    "group of groups": (lambda: group(numbers(1, 2), numbers(3, 4)), CELERYS),
    "group of twenty": (lambda: numbers(*range(20)), CELERYS),
    "group of equal tasks": (lambda: group(add.s(1), add.s(1), add.s(1)), CELERYS),
    "group of dates": (lambda: group(shop.now.s(), shop.now.s()), CELERYS),
    # a task into a group
    "task into a group": (lambda: add.s(1, 1) | group(add.s(10), mul.s(10)), CELERYS),
    "task into a group with an immutable member": (lambda: add.s(1) | group(add.si(7), add.s(1)), CELERYS),
    "task into a group of chains": (
        lambda: add.s(1) | group(add.s(1) | add.s(2), mul.s(5) | add.s(1)),
        CELERYS,
    ),
    "chain into a group": (lambda: chain(add.s(1), add.s(1), group(add.s(1), add.s(2))), CELERYS),
    "task into a group of groups": (lambda: add.s(1) | group(group(add.s(1), add.s(2)), add.s(3)), CELERYS),
    # A worker runs a group of one in a chain as its member; the eager mode does not.
    "task into a group of one": (lambda: chain(add.s(1, 1), group([add.s(2)])), 4),
    "an empty group at the end of a chain": (lambda: chain(add.s(1, 1), group([])), 2),
    "an empty group inside a chain": (lambda: chain(add.s(1, 1), group([]), add.s(3)), 5),
    # chords
    "chord": (lambda: chord([add.s(1, 1), add.s(2, 2)], total.s()), CELERYS),
    "chord of a generator": (lambda: chord((add.s(i, i) for i in range(6)), total.s()), CELERYS),
    "chord of one": (lambda: chord([add.s(1, 1)], total.s()), CELERYS),
    "chord without a header": (lambda: chord([], total.s()), CELERYS),
    "chord with an immutable body": (lambda: chord([add.s(1), add.s(2)], add.si(5, 5)), CELERYS),
    "chord with arguments of the body": (lambda: chord(numbers(1, 2), same.s(a=3)), CELERYS),
    "group | task": (lambda: numbers(1, 2, 3) | total.s(), CELERYS),
    "group | task | task": (lambda: numbers(1, 2, 3) | total.s() | add.s(10), CELERYS),
    "group | chain": (lambda: numbers(1, 2) | chain(total.s(), add.s(1), mul.s(2)), CELERYS),
    "task | group | task": (lambda: add.s(1) | group(add.s(1), add.s(2)) | total.s(), CELERYS),
    "group | group": (lambda: chain(numbers(1, 2), group(total.s(), same.s())), CELERYS),
    "group | group | task": (lambda: chain(numbers(1, 2), group(total.s(), total.s()), total.s()), CELERYS),
    "chord with a chain as its body": (lambda: chord(numbers(1, 2), total.s() | add.s(5)), CELERYS),
    "chord with a group as its body": (lambda: chord(numbers(1, 2), group(total.s(), same.s())), CELERYS),
    "chord of dates": (lambda: chord([shop.now.s(), shop.now.s()], same.s()), CELERYS),
    "chord | chord": (
        lambda: chord(numbers(1, 2), total.s()) | chord([add.s(1), add.s(2)], total.s()),
        CELERYS,
    ),
    # three deep
    "chord of chains": (lambda: chord([add.s(1) | add.s(2), mul.s(2, 2) | add.s(1)], total.s()), CELERYS),
    "chord of groups": (lambda: chord([numbers(1, 2), numbers(3)], total.s()), CELERYS),
    "chord of chords": (
        lambda: chord([chord(numbers(1, 2), total.s()), chord(numbers(3, 4), total.s())], total.s()),
        CELERYS,
    ),
    "group of chords": (
        lambda: group(chord(numbers(1, 2), total.s()), chord(numbers(3, 4), total.s())),
        CELERYS,
    ),
    "chain of chords": (
        lambda: chain(chord(numbers(1, 2), total.s()), add.s(1), group(add.s(1), add.s(2)), total.s()),
        CELERYS,
    ),
    "group in a chain in a group": (
        lambda: group(add.s(1) | group(add.s(1), add.s(2)), add.s(9)),
        CELERYS,
    ),
    "chain in a chord in a chain": (
        lambda: chain(add.s(1), group(add.s(1) | mul.s(3), add.s(2) | mul.s(5)), total.s() | add.s(1)),
        CELERYS,
    ),
    "group in a chord's body": (
        lambda: chord(numbers(1, 2), total.s() | group(add.s(1), add.s(2)) | total.s()),
        CELERYS,
    ),
    "everything": (
        lambda: chain(
            add.s(1, 1),
            group(add.s(1), chord([add.s(1), add.s(2)], total.s()), mul.s(3) | add.s(1)),
            same.s(),
            group(total.s(), same.s()),
        ),
        CELERYS,
    ),
    # map, starmap and chunks, of which Celery's eager mode has no value
    "map": (lambda: add.map([1, 2, 3]), [1, 2, 3]),
    "starmap": (lambda: add.starmap([(1, 2), (3, 4)]), [3, 7]),
    "chunks": (lambda: chunks(add.s(), [(i, i) for i in range(5)], 2), [[0, 2], [4, 6], [8]]),
    "map | task": (lambda: add.map(range(4)) | total.s(), 6),
    "map in a group": (lambda: group(add.map([1, 2]), add.s(5)), [[1, 2], 5]),
    "task before a map": (lambda: chain(add.s(1), add.map([1, 2]), total.s()), 3),
    # options that do not change the value
    "options": (
        lambda: (
            add.s(1, 2).set(task_id="t-1", shadow="sum", serializer="json", ignore_result=False)
            | add.s(3).set(queue="mail", priority=4, time_limit=30, soft_time_limit=20)
        ),
        CELERYS,
    ),
    "a link beside the value": (lambda: add.s(1, 2).on_error(shop.handle_id.s()) | add.s(3), CELERYS),
}


def plain(value: Any) -> Any:
    """Return a value as JSON, with what JSON does not know as kombu marks it."""
    return orjson.loads(kombu_json.dumps(value))


def celerys_value(name: str) -> Any:
    """Return the value that Celery gives for a shape."""
    make, expected = SHAPES[name]
    return plain(make().apply().get() if expected is CELERYS else expected)
