"""The engine at home in a Django project: `INSTALLED_APPS += ["workflow_engine.django"]`.

    from workflow_engine.django import start

    with transaction.atomic():
        order = Order.objects.create(customer="Ada")
        start("fulfilment", {"orderId": order.pk})  # commits or rolls back with the order

In reading order:

- `project_client`: a client on Django's connection, which takes part in `transaction.atomic()`
- `database`: the engine's statements on that connection
- `connections`: which connections of Django are closed around a node
- `values`: what may be given as data, and what is advised in place of a model instance
- `configuration`: the settings `WORKFLOW_ENGINE`, the database among `DATABASES`, the project's Celery app
- `apps`: what happens when Django starts; `checks`: what `manage.py check` says
- `revisions`: `manage.py migrate`, by the engine's own migrations
- `discovery`: the definitions in the installed apps
- `models`: executions and their journal, for queries; `admin`: the same in Django's admin
- `testing`: runs what a test has started; `without_redis`: the services that it takes in place of Redis's
- `tasks`: the engine's task, where Celery looks for the tasks of an app
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflow_engine.django.project_client import DjangoClient
    from workflow_engine.execution.records import StartedExecution

__all__ = ["client", "start", "start_task"]


@functools.cache
def client() -> DjangoClient:
    """Return the client of this project, which works on Django's connection to the engine's tables.

    It has all methods of `WorkflowClient`. What they write in `transaction.atomic()` is part of that
    transaction, and messages to workers follow its commit. Raises `SettingsInvalid` when it is first used.
    """
    from workflow_engine.django.project_client import DjangoClient

    return DjangoClient()


def start(workflow_id: str, *data: Any, **options: Any) -> StartedExecution:
    """Start an execution, in the transaction that is open or else in one of its own.

    `data`, `options` and the errors are those of `WorkflowClient.start`, without `session`. Raises
    `SessionRefused` if a transaction is open in another database than that of the engine's tables.
    """
    return client().start(workflow_id, *data, **options)


def start_task(
    task: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> StartedExecution:
    """Start a Celery task as an execution of one node, in the transaction that is open if there is one.

    `options` and the errors are those of `WorkflowClient.start_task`.
    """
    return client().start_task(task, args, kwargs, **options)
