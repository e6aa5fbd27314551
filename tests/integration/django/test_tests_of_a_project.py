"""A project's tests run what they start, in the transaction that Django rolls back, with Postgres alone."""

from __future__ import annotations

import unittest
from typing import Any

import pytest
from django.db import connection
from django.test import TestCase, override_settings

from support.broker import Broker
from support.django_shop.models import Order
from workflow_engine import ExecutionStatus, WorkflowBuilder, node
from workflow_engine.django import client, start
from workflow_engine.django.models import Execution
from workflow_engine.django.testing import run_workflows


@pytest.fixture(autouse=True)
def _no_redis(_project: None) -> Any:
    """Lead the engine to a Redis that is not there."""
    with override_settings(WORKFLOW_ENGINE={"REDIS_URL": "redis://127.0.0.1:1/0"}):
        yield


@pytest.fixture
def broker() -> Any:
    """Fail if anything is sent."""

    class NoBroker(Broker):
        def publish(self, dispatches: Any) -> None:
            raise AssertionError(f"a test has sent {dispatches}")

    return NoBroker()


def passes(case: type[unittest.TestCase]) -> None:
    """Run a test case as Django's runner does."""
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    problems = [text for _, text in (*result.failures, *result.errors)]
    assert not problems, "\n".join(problems)
    assert result.testsRun > 0


@node("django_tests.ship")
def ship(order_id: int) -> str:
    """Write to the project's table, as nodes do."""
    order = Order.objects.get(pk=order_id)
    order.customer = f"{order.customer}, shipped"
    order.save()
    return order.customer


@node("django_tests.break_the_transaction")
def break_the_transaction() -> None:
    """Make a mistake in the database."""
    Order.objects.create(customer="written first")
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM no_such_table")


def shipping() -> Any:
    flow = WorkflowBuilder("shipping")
    placed = flow.trigger("placed")
    ship = flow.python("ship", "django_tests.ship", arguments={"order_id": "{{ placed.orderId }}"})
    placed >> flow.delay("coolOff", duration=14, unit="days") >> ship
    return flow.build()


def test_executions_run_in_the_transaction_of_a_test_case_and_are_gone_after_it() -> None:
    class Shop(TestCase):
        """What a project would write."""

        def setUp(self) -> None:
            client().deploy(shipping())

        def test_what_was_started_runs_in_the_transaction_of_the_test(self) -> None:
            order = Order.objects.create(customer="Ada")
            started = start("shipping", {"orderId": order.pk})

            [waiting] = run_workflows()
            assert waiting.status == ExecutionStatus.WAITING
            [done] = run_workflows(skip_delays=True)

            assert (done.id, done.result) == (started.id, "Ada, shipped")
            order.refresh_from_db()
            assert order.customer == "Ada, shipped"
            assert run_workflows() == []

        def test_callbacks_on_commit_are_executed_and_send_nothing(self) -> None:
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                start("shipping", {"orderId": Order.objects.create(customer="Ada").pk})

            assert callbacks
            assert run_workflows(skip_delays=True)[0].result == "Ada, shipped"

        def test_each_test_begins_without_executions(self) -> None:
            assert not Execution.objects.exists()
            assert not Order.objects.exists()

    passes(Shop)

    assert not Execution.objects.exists()
    assert not client().workflows()


def test_a_workflow_of_the_same_name_in_another_test_is_another_workflow() -> None:
    def answering(answer: int) -> Any:
        flow = WorkflowBuilder("answering")
        flow.trigger("asked") >> flow.function("answered", f"{{{{ {answer} }}}}")
        return flow.build()

    class Answers(TestCase):
        def test_one(self) -> None:
            self.answers(1)

        def test_two(self) -> None:
            self.answers(2)

        def answers(self, answer: int) -> None:
            with self.captureOnCommitCallbacks(execute=True):
                client().deploy(answering(answer))
                start("answering")
            assert run_workflows()[0].result == answer

    passes(Answers)


def test_events_branches_loops_and_children_run_as_on_workers() -> None:
    class Everything(TestCase):
        def test_it(self) -> None:
            flow = WorkflowBuilder("everything", settings={"concurrency": 4})
            asked = flow.trigger("asked")
            paid = flow.wait_events("paid", correlation_id="{{ asked.key }}", events=["paid"])
            branches = [flow.function(f"branch{n}", f"{{{{ {n} }}}}") for n in range(3)]
            joined = flow.merge("joined")
            asked >> paid
            for each in branches:
                paid >> each >> joined
            client().deploy(flow.build())
            start("everything", {"key": "k-1"})

            assert run_workflows()[0].status == ExecutionStatus.WAITING
            client().send_event("k-1", "paid", {"amount": 12})
            [done] = run_workflows()

            assert done.result == {"branch0": 0, "branch1": 1, "branch2": 2}

    passes(Everything)


def test_a_node_that_breaks_its_transaction_fails_and_the_test_goes_on() -> None:
    class Broken(TestCase):
        def test_it(self) -> None:
            flow = WorkflowBuilder("broken")
            flow.trigger("asked") >> flow.python("mistake", "django_tests.break_the_transaction")
            client().deploy(flow.build())
            start("broken")

            [failed] = run_workflows()

            assert failed.status == ExecutionStatus.FAILED
            assert "no_such_table" in str(failed.error)
            assert not Order.objects.exists(), "what the node wrote is rolled back"

    passes(Broken)


def test_code_that_is_not_there_fails_its_node_at_once() -> None:
    class Missing(TestCase):
        def test_it(self) -> None:
            flow = WorkflowBuilder("missing")
            flow.trigger("asked") >> flow.celery_task("task", "shop.no_such_task")
            client().deploy(flow.build())
            start("missing")

            assert "shop.no_such_task" in str(run_workflows()[0].error)

    passes(Missing)
