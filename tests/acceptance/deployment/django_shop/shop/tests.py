"""The project's own tests: `python manage.py test`."""

from django.test import TestCase, override_settings

from shop.celery import app
from shop.models import Order
from shop.reports import report
from shop.tasks import count_orders, flaky


class OrderTest(TestCase):
    """Tasks and nodes are functions that Django's tests can call."""

    def setUp(self):
        self.order = Order.objects.create(customer="Ada")
        app.conf.task_always_eager = True
        self.addCleanup(setattr, app.conf, "task_always_eager", False)

    @override_settings(SHOP_FOLDER="/dev")
    def test_tasks_run_eagerly(self):
        self.assertEqual(flaky.delay().get(), 2)
        count_orders.delay().get()
        self.assertEqual(Order.objects.get().counted, 1)
        self.assertEqual(report.delay().get()[0], "1 order")
