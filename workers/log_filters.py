"""What Celery and kombu would log again and again, though it is told once elsewhere."""

from __future__ import annotations

import logging
import warnings

from celery.exceptions import CPendingDeprecationWarning, Reject


class NodeGivenBack(Reject):  # type: ignore[misc]  # celery has no type information
    """Has Celery put the message of a node back into its queue, at the end."""


def quieten() -> None:
    """Leave out repetitions; everything else that happens to messages and connections is logged as ever."""
    logging.getLogger("celery.app.trace").addFilter(_is_no_node_given_back)
    logging.getLogger("kombu.transport.redis").addFilter(_is_no_refresh)
    # With every lost connection Celery would announce at length what becomes a default of its next release.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning, module="celery.worker.consumer")


def _is_no_node_given_back(record: logging.LogRecord) -> bool:
    """Celery logs a message each time that it is given back, with a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], NodeGivenBack))


def _is_no_refresh(record: logging.LogRecord) -> bool:
    """A full Redis refuses every second what kombu does for queues that expire, which the engine has not."""
    return not record.getMessage().startswith("maybe_refresh_binding_expiry")
