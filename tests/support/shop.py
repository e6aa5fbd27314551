"""A team's Celery project as it was before it knew the engine: tasks with every feature a task can have.

`calls` holds what the tasks and their handlers did in this process, in order.
"""

from __future__ import annotations

import uuid
import warnings
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from celery import Celery, Task, shared_task
from celery.exceptions import CDeprecationWarning, Ignore, Reject, SoftTimeLimitExceeded
from pydantic import BaseModel

calls: list[Any] = []

app = Celery("shop", broker="memory://", set_as_current=False)
app.conf.update(
    task_routes={"shop.mail.*": {"queue": "mail", "priority": 7}},
    task_serializer="json",
    task_track_started=True,
    task_default_queue="shop",
    task_create_missing_queues=True,
)


class Declined(Exception):
    """Raised by a payment that the bank declines."""


class Audited(Task):
    """A base class with a handler for everything."""

    shop = "north"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        calls.append(("call", self.shop))
        return super().__call__(*args, **kwargs)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        calls.append(("before_start", task_id, list(args), dict(kwargs)))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        calls.append(("on_success", retval))

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        calls.append(("on_retry", str(exc)))

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        calls.append(("on_failure", str(exc)))

    def after_return(self, status: str, *_: Any) -> None:
        calls.append(("after_return", status))


class Order(BaseModel):
    """An order with its types."""

    id: int
    placed: datetime


# -- what a task is called with, and what it returns -----------------------------------------------------


@app.task(name="shop.add")
def add(x: Any, y: Any = 0) -> Any:
    return x + y


@shared_task(name="shop.echo")
def echo(*args: Any, **kwargs: Any) -> Any:
    """Return its arguments; a task of any app, as in a Django project."""
    return {"args": args, "kwargs": kwargs}


@app.task(name="shop.about", bind=True)
def about(self: Task, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what a task learns of itself."""
    request = self.request
    return {
        "id": request.id,
        "task": request.task,
        "root_id": request.root_id,
        "retries": request.retries,
        "args": list(request.args),
        "kwargs": request.kwargs,
        "called_directly": request.called_directly,
        "hostname": bool(request.hostname),
        "headers": request.headers,
        "tenant": request.get("tenant"),
        "node": request.workflow_engine.current_node_id,
    }


@app.task(name="shop.typed", pydantic=True)
def typed(order: Order) -> Order:
    calls.append(order)
    return Order(id=order.id + 1, placed=order.placed + timedelta(days=1))


MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@app.task(name="shop.rich")
def rich() -> dict[str, Any]:
    """Return values that JSON does not know."""
    return {"at": MOMENT, "price": Decimal("9.90"), "key": uuid.UUID(int=7), "raw": b"\xff"}


@app.task(name="shop.types_of")
def types_of(value: dict[str, Any]) -> dict[str, str]:
    return {name: type(each).__name__ for name, each in value.items()}


@app.task(name="shop.unwritable")
def unwritable() -> Any:
    return {"stock": object()}


@app.task(name="shop.pair")
def pair() -> Any:
    return 1, 2


# -- failures and retries --------------------------------------------------------------------------------


@app.task(name="shop.charge", bind=True, base=Audited, max_retries=2, default_retry_delay=7)
def charge(self: Task, fails: int, countdown: int | None = None) -> str:
    """Fail this many times, and retry by hand."""
    calls.append(("charge", self.request.retries))
    if self.request.retries < fails:
        try:
            raise Declined(f"declined {self.request.retries}")
        except Declined as declined:
            raise self.retry(exc=declined, countdown=countdown) from declined
    return f"charged after {self.request.retries}"


@app.task(
    name="shop.flaky",
    bind=True,
    autoretry_for=(ConnectionError,),
    dont_autoretry_for=(ConnectionRefusedError,),
    retry_backoff=4,
    retry_jitter=False,
    max_retries=2,
)
def flaky(self: Task, error: str | None, until: int = 99) -> str:
    if error is not None and self.request.retries < until:
        raise {"lost": ConnectionError, "refused": ConnectionRefusedError}[error](error)
    return f"done after {self.request.retries}"


@app.task(name="shop.later", bind=True)
def later(self: Task) -> str:
    """Retry at a time."""
    if not self.request.retries:
        raise self.retry(eta=datetime.now(UTC) + timedelta(hours=1))
    return "later"


@app.task(name="shop.changing", bind=True)
def changing(self: Task, x: int) -> int:
    """Retry with other arguments."""
    raise self.retry(args=(x + 1,), countdown=0)


@app.task(name="shop.same_again", bind=True)
def same_again(self: Task, x: int) -> int:
    """Retry with the same arguments, written out."""
    if not self.request.retries:
        raise self.retry(args=(x,), kwargs={}, countdown=0)
    return x


@app.task(name="shop.declines", throws=(Declined,), base=Audited)
def declines(*_: Any, **__: Any) -> None:
    raise Declined("no money")


@app.task(name="shop.ignores")
def ignores() -> None:
    raise Ignore


@app.task(name="shop.rejects", bind=True)
def rejects(self: Task, times: int, requeue: bool = True) -> str:
    calls.append("rejects")
    if calls.count("rejects") <= times:
        raise Reject("not here", requeue=requeue)
    return f"taken, retries {self.request.retries}"


@app.task(name="shop.replaces", bind=True, autoretry_for=(Exception,))
def replaces(self: Task) -> Any:
    return self.replace(add.s(1, 2))


# -- limits, progress, options ---------------------------------------------------------------------------


@app.task(name="shop.slow", soft_time_limit=0.1, time_limit=0.6, autoretry_for=(Exception,))
def slow(tidies_up: bool = True) -> str:
    """Run until its limits; only the hard one ends it if it ignores the soft one."""
    try:
        _spin(5)
    except SoftTimeLimitExceeded:
        if tidies_up:
            return "tidied up"
        _spin(5)
    return "never"


@app.task(name="shop.too_slow", soft_time_limit=0.1)
def too_slow() -> None:
    _spin(5)


def _spin(seconds: float) -> None:
    import time

    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(0.01)


@app.task(name="shop.steps", bind=True)
def steps(self: Task) -> None:
    self.update_state(state="PROGRESS", meta={"current": 3, "total": 4, "status": "packing"})
    self.update_state(state="SHIPPING", meta={"percent": 90})
    self.update_state(state="PROGRESS", meta="nearly there")


@app.task(name="shop.limited", rate_limit="10/m", expires=60, acks_late=True, ignore_result=True)
def limited() -> str:
    return "kept"


@app.task(name="shop.mail.send")
def send(to: str) -> str:
    return f"to {to}"


with warnings.catch_warnings():
    # Celery 6 drops these two; until then a team may have them. They are read when the task is bound.
    warnings.simplefilter("ignore", CDeprecationWarning)

    @app.task(name="shop.invoice", queue="invoices", priority=2, lazy=False, shared=False)
    def invoice() -> str:
        return "invoice"


# -- parts of canvases -----------------------------------------------------------------------------------


@app.task(name="shop.mul")
def mul(x: Any, y: Any) -> Any:
    return x * y


@app.task(name="shop.total")
def total(numbers: Any) -> Any:
    """Return the sum of numbers, also of those in lists of lists."""
    return sum(total(each) if isinstance(each, list | tuple) else each for each in numbers)


@app.task(name="shop.same")
def same(value: Any = None, **also: Any) -> Any:
    return {"value": value, **also} if also else value


@app.task(name="shop.now")
def now() -> Any:
    return MOMENT


@app.task(name="shop.next_day")
def next_day(moment: datetime) -> Any:
    return moment + timedelta(days=1)


@app.task(name="shop.noted")
def noted(value: Any, note: str = "") -> None:
    calls.append(("noted", value, note))


@app.task(name="shop.handle_error")
def handle_error(request: Any, exc: Exception, traceback: Any, note: str = "") -> None:
    """Handle an error as errbacks of the newer kind do."""
    calls.append(("errback", request.id, request.task, type(exc).__name__, str(exc), note))


@app.task(name="shop.handle_id")
def handle_id(task_id: str) -> None:
    """Handle an error as errbacks of the older kind do."""
    calls.append(("old errback", task_id))


@app.task(name="shop.stamps", bind=True)
def stamps(self: Task, *_: Any) -> Any:
    return {"stamps": self.request.stamps, "headers": self.request.headers}


def on_count(number: int) -> int:
    """Stand for what a test lets happen while `counted` runs; return its value."""
    return number


@app.task(name="shop.counted")
def counted(number: int) -> int:
    """Note that it ran, and return the number."""
    calls.append(("counted", number))
    return on_count(number)


@app.task(name="shop.nap")
def nap(seconds: float) -> float:
    _spin(seconds)
    return seconds
