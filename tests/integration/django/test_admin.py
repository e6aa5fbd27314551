"""Django's admin lists executions, draws them, and operates on them for those who may, with a reason."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.test import Client

from support.broker import Workers
from workflow_engine import ExecutionStatus, WorkflowBuilder
from workflow_engine.django import client, start

LIST = "/admin/workflow_engine/execution/"


@pytest.fixture(scope="module")
def users(django_is_connected: None) -> Iterator[dict[str, User]]:
    """Make users, in the tables of Django's own apps beside the engine's."""
    call_command("migrate", verbosity=0)
    permissions = {"viewer": ["view_execution"], "operator": ["view_execution", "operate"], "stranger": []}
    made = {}
    for name, codes in permissions.items():
        user = get_user_model().objects.create_user(name, password="secret", is_staff=True)
        user.user_permissions.set(
            Permission.objects.filter(content_type__app_label="workflow_engine", codename__in=codes)
        )
        made[name] = user
    yield made
    get_user_model().objects.all().delete()


def signed_in(user: User) -> Client:
    browser = Client()
    browser.force_login(user)
    return browser


@pytest.fixture
def failed(workers: Workers) -> str:
    """Return an execution of which one node failed, the other not."""
    flow = WorkflowBuilder("fragile")
    (
        flow.trigger("asked")
        >> flow.function("given", "{{ asked.n }}")
        >> flow.function("halved", "{{ 1 / given }}")
    )
    client().deploy(flow.build())
    execution = start("fragile", {"n": 0})
    workers.drain()
    assert client().get(execution.id).status is ExecutionStatus.FAILED
    return execution.id


def test_the_list_is_filtered_and_searched(users: dict[str, User], failed: str, deployed: None) -> None:
    other = start("order", {"orderId": 1}, idempotency_key="order-1")
    browser = signed_in(users["viewer"])

    everything = browser.get(LIST).content.decode()
    assert failed in everything
    assert other.id in everything
    for query, found in [
        ("?status__exact=FAILED", failed),
        ("?workflow=order", other.id),
        ("?q=order-1", other.id),
        (f"?q={failed[:18]}", failed),
    ]:
        page = browser.get(LIST + query).content.decode()
        assert (failed in page, other.id in page) == (found == failed, found == other.id), query


def test_an_execution_is_drawn_with_its_journal_and_error(users: dict[str, User], failed: str) -> None:
    page = signed_in(users["viewer"]).get(f"{LIST}{failed}/change/").content.decode()

    assert re.search(r'class="engine-node engine-failed".*?halved', page, re.S)
    assert re.search(r'class="engine-node engine-completed".*?given', page, re.S)
    assert page.count('class="engine-edge engine-taken"') == 2
    assert str(client().get(failed).error) in html.unescape(page)
    assert 'value="retry"' not in page, "nothing to operate with"


def test_operators_retry_with_a_reason_that_the_history_keeps(
    users: dict[str, User], failed: str, workers: Workers
) -> None:
    browser = signed_in(users["operator"])
    assert 'value="retry"' in browser.get(f"{LIST}{failed}/change/").content.decode()
    chosen = {"action": "retry", "_selected_action": [failed]}

    asked = browser.post(LIST, chosen).content.decode()
    assert 'name="reason"' in asked
    assert client().get(failed).status is ExecutionStatus.FAILED
    assert "Give a reason" in browser.post(LIST, {**chosen, "reason": " "}).content.decode()
    done = browser.post(LIST, {**chosen, "reason": "the bank is back"}, follow=True).content.decode()

    assert "Retry: 1 execution." in done
    [event] = client().control.audit(failed)
    assert (event.actor, event.reason) == ("operator", "the bank is back")
    assert workers.drain() == 1, "the message follows at once"
    assert "the bank is back" in browser.get(f"{LIST}{failed}/change/").content.decode()


def test_every_operation_reaches_the_operators(users: dict[str, User], deployed: None) -> None:
    execution = start("order", {"orderId": 1})
    browser = signed_in(users["operator"])

    for operation, status in [("pause", "PAUSED"), ("resume", "PENDING"), ("cancel", "CANCELLED")]:
        browser.post(LIST, {"action": operation, "_selected_action": [execution.id], "reason": "a test"})
        assert client().get(execution.id).status.value in (status, "RUNNING")
    refused = browser.post(
        LIST, {"action": "pause", "_selected_action": [execution.id], "reason": "late"}, follow=True
    )
    assert "is CANCELLED" in html.unescape(refused.content.decode())


@pytest.mark.parametrize("user", ["viewer", "stranger"])
def test_without_the_permission_nothing_is_operated(users: dict[str, User], failed: str, user: str) -> None:
    browser = signed_in(users[user])

    browser.post(LIST, {"action": "cancel", "_selected_action": [failed], "reason": "mischief"})
    browser.post(LIST, {"action": "retry", "_selected_action": [failed], "reason": "mischief"})

    assert client().get(failed).status is ExecutionStatus.FAILED
    assert client().control.audit(failed) == []
    assert browser.get(LIST).status_code == (200 if user == "viewer" else 403)


def test_nothing_is_added_changed_or_deleted(users: dict[str, User], failed: str) -> None:
    browser = signed_in(users["operator"])

    assert browser.get(f"{LIST}add/").status_code == 403
    assert browser.post(f"{LIST}{failed}/change/", {"status": "COMPLETED"}).status_code == 403
    assert browser.post(f"{LIST}{failed}/delete/", {"post": "yes"}).status_code == 403
    assert client().get(failed).status is ExecutionStatus.FAILED
