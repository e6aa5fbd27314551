"""The engine's workers, which go deaf when a test creates a file: `celery -A support.deaf_worker worker`.

Both ways to go deaf were seen after outages of a broker: the event loop has lost the connection on
which messages arrive, or is blocked.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from celery import bootsteps

from support.nodes.recorded import FOLDER
from workflow_engine.worker.app import app

FORGETS = "forgets-to-poll"
STANDS_STILL = "stands-still"


class Deafness(bootsteps.StartStopStep):
    requires = {"celery.worker.components:Hub"}  # noqa: RUF012 - celery's way to order steps

    def start(self, worker: Any) -> None:
        threading.Thread(target=_obey, args=(worker,), daemon=True).start()


def _obey(worker: Any) -> None:
    while True:
        if (FOLDER / FORGETS).exists():
            worker.hub.call_soon(_forget_to_poll, worker)
            return
        if (FOLDER / STANDS_STILL).exists():
            worker.hub.call_soon(time.sleep, 3600)
            return
        time.sleep(0.05)


def _forget_to_poll(worker: Any) -> None:
    worker.hub.on_tick.clear()
    for descriptor in list(worker.consumer.connection.transport.cycle.fds):
        worker.hub.remove(descriptor)


app.steps["worker"].add(Deafness)
