"""A Celery app whose messages go astray: duplicated, dropped or shuffled on their way into the queue.

Workers are started with `-A faults.disturbed`, and the suite does the same to what it publishes itself. The
transport is patched, below everything that the engine uses, so messages of recovery go astray like any
others. One file holds the disturbance in force, another records every message.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any
from unittest import mock

from kombu.transport.redis import Channel

from faults.workload import FOLDER_VARIABLE
from support.json_lines import append, lines_of
from workflow_engine.broker.dispatcher import CeleryDispatcher
from workflow_engine.broker.wire_format import TASK_NAME
from workflow_engine.worker.app import app

__all__ = ["Disturbance", "app", "disturb", "disturbed", "messages_in"]

EVERY = 10
"""One message in this many is dropped."""
HELD_BACK = 1.0
"""The longest delay of a message in seconds; for a node of half a second that is after its commit."""
PRIORITIES = (0, 3, 6, 9)
"""Those for which Redis keeps a list each."""

PUT = "_put"
"""The method of kombu's transport that puts a message into a queue."""
CHOICE, MESSAGES = "disturbance", "messages"

BYPASSES: Mapping[str, Callable[..., Any]] = {"_push": lambda *_: False, "queued": lambda *_: None}
"""The ways of a message that bypass the transport, and what each returns to say that it was not sent."""

Put = Callable[..., None]
_counter = itertools.count(random.randrange(EVERY))


class Disturbance(StrEnum):
    NONE = "none"
    """Messages are only counted."""
    DOUBLED = "doubled"
    """Each arrives twice, the second copy at once or late."""
    DROPPED = "dropped"
    """Every tenth is lost."""
    SHUFFLED = "shuffled"
    """Each arrives at any time, with any priority."""


def disturb(folder: Path, disturbance: Disturbance) -> None:
    """Disturb all messages of the stage in this folder from now on."""
    (folder / f"{CHOICE}.new").write_text(disturbance)
    (folder / f"{CHOICE}.new").rename(folder / CHOICE)


@contextmanager
def disturbed(folder: Path) -> Iterator[None]:
    """Disturb the messages of this process, too."""
    put = _disturbing(getattr(Channel, PUT), folder)
    with mock.patch.object(Channel, PUT, put), mock.patch.multiple(CeleryDispatcher, **BYPASSES):
        yield


def messages_in(folder: Path) -> list[dict[str, Any]]:
    """Return the messages so far: `disturbance`, `execution_id`, `priority`, `copies`, `at`."""
    return lines_of(folder / MESSAGES)


def _disturbing(put: Put, folder: Path) -> Put:
    def put_disturbed(channel: Channel, queue: str, message: dict[str, Any], **options: Any) -> None:
        if message["headers"].get("task") != TASK_NAME:
            put(channel, queue, message, **options)
            return
        disturbance = Disturbance((folder / CHOICE).read_text())
        copies = 1
        if disturbance is Disturbance.DROPPED and next(_counter) % EVERY == 0:
            copies = 0
        elif disturbance is Disturbance.DOUBLED:
            copies = 2
        fields = {
            "disturbance": disturbance,
            "execution_id": message["headers"]["root_id"],
            "priority": message["properties"].get("priority"),
            "copies": copies,
            "at": time.time(),
        }
        append(folder / MESSAGES, fields)
        if disturbance is Disturbance.SHUFFLED:
            priority = random.choice(PRIORITIES)
            message = {**message, "properties": {**message["properties"], "priority": priority}}
            _late(put, channel, queue, message)
        elif copies:
            put(channel, queue, message, **options)
        if copies > 1:
            _late(put, channel, queue, message)

    return put_disturbed


def _late(put: Put, channel: Channel, queue: str, message: dict[str, Any]) -> None:
    """Publish half of the messages at once, the others within a second."""
    if random.random() < 0.5:
        put(channel, queue, message)
        return
    timer = threading.Timer(random.uniform(0, HELD_BACK), put, (channel, queue, message))
    timer.daemon = True
    timer.start()


if FOLDER_VARIABLE in os.environ:  # a worker; the suite itself only borrows
    for name, instead in BYPASSES.items():
        setattr(CeleryDispatcher, name, instead)
    setattr(Channel, PUT, _disturbing(getattr(Channel, PUT), Path(os.environ[FOLDER_VARIABLE])))
