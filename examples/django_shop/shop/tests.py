"""The shop's own tests: `python manage.py test`."""

from django.core import mail
from django.test import TestCase

from shop.canvases import fulfil, renew
from shop.models import Order
from shop.tasks import charge


class ShopTest(TestCase):
    """Views store what they are asked for, and tasks and canvases do it."""

    def test_an_order_is_stored_and_shown(self):
        placed = self.client.post("/orders", {"customer": "ada"})
        self.assertEqual(placed.status_code, 201)

        shown = self.client.get(f"/orders/{placed.json()['order']}").json()
        self.assertEqual(shown["status"], "PLACED")

    def test_orders_that_were_confirmed_are_renewed(self):
        kept = Order.objects.create(customer="ada", status="CONFIRMED", receipt="r")
        Order.objects.create(customer="grace")

        renewed = self.client.post("/renewals")
        self.assertEqual((renewed.status_code, renewed.json()), (202, {"orders": [kept.pk]}))

    def test_an_order_that_is_charged_twice_has_one_receipt(self):
        order = Order.objects.create(customer="ada")
        self.assertEqual(charge(order.pk), charge(order.pk))

    def test_the_chain_charges_and_confirms_an_order(self):
        order = Order.objects.create(customer="ada")
        fulfil(order.pk).apply().get()

        order.refresh_from_db()
        self.assertEqual((order.status, order.receipt), ("CONFIRMED", f"receipt-{order.pk}"))
        self.assertEqual([message.to for message in mail.outbox], [["ada@mail.example"]])

    def test_the_chord_charges_and_confirms_all_orders(self):
        orders = [Order.objects.create(customer=name) for name in ("ada", "grace")]
        renew([order.pk for order in orders]).apply().get()

        self.assertEqual({order.status for order in Order.objects.all()}, {"CONFIRMED"})
        self.assertEqual(len(mail.outbox), 2)
