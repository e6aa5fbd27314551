"""Outages of Postgres, Redis and the broker: told once when they begin and once when they end.

Many parts of a process meet the same outage, each again and again. So all of them report here, and what they
raise is logged by nobody else. A part has got over an outage when the service has answered and what the part
does has succeeded as a whole: on a full disk reading goes well while writing fails, and that is one outage.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from workflow_engine.errors import (
    BrokerUnavailable,
    CacheUnavailable,
    DatabaseOutdated,
    DatabaseUnavailable,
    WorkflowEngineError,
)

log = logging.getLogger(__name__)

SERVICES: dict[type[BaseException], str] = {
    DatabaseUnavailable: "Postgres",
    DatabaseOutdated: "Postgres",
    CacheUnavailable: "Redis",
    BrokerUnavailable: "The broker",
}
"""Which service an error speaks of."""


@dataclass
class _Outage:
    since: float
    failures: dict[threading.Thread, float] = field(default_factory=dict)
    """When each thread that has not got over it met it last."""


class Outages:
    """The outages that this process has met and not got over. Times are of `time.monotonic`."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Begin as if none had been met."""
        self._lock = threading.Lock()
        self._current: dict[str, _Outage] = {}
        self._answered: dict[str, float] = {}

    def answered(self, unavailable: type[WorkflowEngineError]) -> None:
        """The service of which this error speaks has done what it was asked."""
        if self._current:
            self._answered[SERVICES[unavailable]] = time.monotonic()

    @contextmanager
    def told(self, what: str = "", since: float = 0.0) -> Iterator[None]:
        """Report whatever outage ends the block, or that this thread has got over those it met before.

        `what` says in the log what has to wait: "commit node charge of execution …". A block that is but a
        part of the thread's work has got over those only that were met `since` it was tried first.
        """
        began = time.monotonic()
        try:
            yield
        except WorkflowEngineError as error:
            if (outage := outage_behind(error)) is not None:
                self._begun(outage, what)
            raise
        if self._current:
            self._over(since, began)

    def _begun(self, error: WorkflowEngineError, what: str) -> None:
        service, now = SERVICES[type(error)], time.monotonic()
        with self._lock:
            is_new = service not in self._current
            outage = self._current.setdefault(service, _Outage(now))
            outage.failures[threading.current_thread()] = now
        if is_new:
            log.warning("%s; waiting to %s", error, what) if what else log.warning("%s; waiting", error)

    def _over(self, since: float, began: float) -> None:
        """The attempt begun then has succeeded; a failure after that was met on the way, and ignored."""
        thread, ended = threading.current_thread(), {}
        with self._lock:
            for service, outage in list(self._current.items()):
                if self._answered.get(service, 0.0) < began:
                    continue
                if since <= outage.failures.get(thread, began) < began:
                    del outage.failures[thread]
                if not any(other.is_alive() for other in outage.failures):
                    ended[service] = self._current.pop(service).since
        for service, met_first in ended.items():
            log.warning("%s serves again, after %.0f s.", service, time.monotonic() - met_first)


def outage_behind(error: BaseException | None) -> WorkflowEngineError | None:
    """The outage that an error speaks of, or was raised from; None for an error of another kind."""
    while error is not None:
        if isinstance(error, WorkflowEngineError) and type(error) in SERVICES:
            return error
        error = error.__cause__
    return None


outages = Outages()
"""Those of this process."""
