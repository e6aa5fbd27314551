"""Outages of servers: each is logged once when it begins and once when it ends, and retried until then.

Many parts of a process meet the same outage, again and again. So all of them report here, and no other code
logs these errors. A part has recovered when the service has replied and the part's work as a whole has
succeeded. On a full disk reads succeed while writes fail, and that is one outage.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

from workflow_engine.errors import (
    BackingServiceUnavailable,
    BrokerUnavailable,
    CacheUnavailable,
    DatabaseOutdated,
    DatabaseUnavailable,
    WorkflowEngineError,
)
from workflow_engine.telemetry.log_events import LogEvent, log_fields

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SERVICES: dict[type[BaseException], str] = {
    DatabaseUnavailable: "Postgres",
    DatabaseOutdated: "Postgres",
    CacheUnavailable: "Redis",
    BrokerUnavailable: "The broker",
}
"""The service that each error is about, as log lines name it."""


@dataclass
class _Outage:
    since: float
    failures: dict[threading.Thread, float] = field(default_factory=dict)
    """When each thread that has not recovered failed last."""


class Outages:
    """The outages that this process is in. Times are of `time.monotonic`."""

    def __init__(self) -> None:
        self.reset()
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        """Drop all outages, as a forked process has to."""
        self._lock = threading.Lock()
        self._current: dict[str, _Outage] = {}
        self._replied: dict[str, float] = {}

    def current(self) -> dict[str, float]:
        """Return the services that are away, each with the seconds since that was noticed."""
        now = time.monotonic()
        with self._lock:
            return {service: now - outage.since for service, outage in self._current.items()}

    def record_reply(self, unavailable: type[WorkflowEngineError]) -> None:
        """Record that the service this error is about has carried out a request."""
        if self._current:
            self._replied[SERVICES[unavailable]] = time.monotonic()

    def watch(self, what: str = "", since: float = 0.0) -> AbstractContextManager[None]:
        """Report the outage that ends the block, or this thread's recovery from earlier ones.

        `what` completes "waiting to …" in the log: "commit node charge of execution …". A block that is only
        a part of the thread's work ends only the outages met `since` its first attempt.
        """
        return _Watch(self, what, since)

    def note_end(self, error: BaseException | None, what: str, since: float, began: float) -> None:
        """Record the end of a block that was watched since `began`."""
        if error is None:
            if self._current:
                self._over(since, began)
        elif isinstance(error, WorkflowEngineError) and (outage := outage_behind(error)) is not None:
            self._begun(outage, what)

    def _begun(self, error: WorkflowEngineError, what: str) -> None:
        service, now = SERVICES[type(error)], time.monotonic()
        with self._lock:
            is_new = service not in self._current
            outage = self._current.setdefault(service, _Outage(now))
            outage.failures[threading.current_thread()] = now
        if is_new:
            waiting = f"waiting to {what}" if what else "waiting"
            log.warning(
                "%s; %s",
                error,
                waiting,
                extra=log_fields(LogEvent.OUTAGE_BEGAN, service=_label(service), error=error),
            )

    def _over(self, since: float, began: float) -> None:
        """Record the success of an attempt begun at `began`; failures after that were handled inside it."""
        thread, ended = threading.current_thread(), {}
        with self._lock:
            for service, outage in list(self._current.items()):
                if self._replied.get(service, 0.0) < began:
                    continue
                if since <= outage.failures.get(thread, began) < began:
                    del outage.failures[thread]
                if not any(other.is_alive() for other in outage.failures):
                    ended[service] = self._current.pop(service).since
        for service, met_first in ended.items():
            seconds = round(time.monotonic() - met_first)
            log.warning(
                "%s is available again after %d s",
                service,
                seconds,
                extra=log_fields(LogEvent.OUTAGE_ENDED, service=_label(service), seconds=seconds),
            )


class _Watch:
    # Not a generator, which costs more: every hop runs this several times.
    __slots__ = ("_began", "_outages", "_since", "_what")

    def __init__(self, outages: Outages, what: str, since: float) -> None:
        self._outages = outages
        self._what = what
        self._since = since

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._outages.note_end(error, self._what, self._since, self._began)


def _label(service: str) -> str:
    """Return the name of a service as fields have it: postgres, redis or broker."""
    return service.rsplit(maxsplit=1)[-1].lower()


def outage_behind(error: BaseException | None) -> WorkflowEngineError | None:
    """Return the outage that an error is, or was raised from; None for an error of another kind."""
    while error is not None:
        if isinstance(error, WorkflowEngineError) and type(error) in SERVICES:
            return error
        error = error.__cause__
    return None


outages = Outages()
"""The outages of this process."""


class BackOff:
    """The pauses between attempts, in seconds.

    Each is twice the one before, up to the longest; jitter keeps a fleet from retrying in step.
    """

    def __init__(self, first: float = 0.1, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> float:
        """Return the pause before the next attempt, and double the one after it."""
        pause = self._next * random.uniform(0.7, 1.3)  # noqa: S311 - spreads load, guards no secret
        self._next = min(self._next * 2, self._longest)
        return pause

    def reset(self) -> None:
        """Go back to the first pause, after an attempt that succeeded."""
        self._next = self._first


def retry_unavailable(call: Callable[[], Result], timeout: float, what: str) -> Result:
    """Retry `call` for up to `timeout` seconds; `what` completes "waiting to …" in the log.

    Only `BackingServiceUnavailable` is retried. Raises it once the timeout has passed.
    """
    began = time.monotonic()
    back_off: BackOff | None = None
    while True:
        try:
            with outages.watch(what, since=began):
                return call()
        except BackingServiceUnavailable:
            back_off = back_off or BackOff()
            pause = back_off.pause()
            if time.monotonic() + pause > began + timeout:
                raise
        time.sleep(pause)
