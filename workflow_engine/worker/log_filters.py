"""Filters lines that Celery and kombu would log repeatedly, though another line reports them once."""

from __future__ import annotations

import logging
import warnings

from celery.exceptions import CPendingDeprecationWarning, Reject


class NodeRequeued(Reject):  # type: ignore[misc]  # celery has no type information
    """Makes Celery put a node's message back at the end of its queue."""


def silence_repeats() -> None:
    """Filter out repeated lines; Celery and kombu log everything else as before."""
    logging.getLogger("celery.app.trace").addFilter(_is_no_requeue)
    logging.getLogger("kombu.transport.redis").addFilter(_is_no_refresh)
    # With every lost connection Celery would warn at length of a default of its next release.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning, module="celery.worker.consumer")


def _is_no_requeue(record: logging.LogRecord) -> bool:
    """Drop the traceback that Celery logs each time a message is requeued."""
    return not (record.exc_info and isinstance(record.exc_info[1], NodeRequeued))


def _is_no_refresh(record: logging.LogRecord) -> bool:
    """Drop a full Redis's error, every second, about expiring queues, which the engine does not use."""
    return not record.getMessage().startswith("maybe_refresh_binding_expiry")
