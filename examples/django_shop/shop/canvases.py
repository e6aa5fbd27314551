"""The shop's tasks as a chain and as a chord."""

from celery import chain, chord

from shop.tasks import charge, confirm, reserve


def fulfil(order_id):
    """Return what is done for a new order, one task after the other."""
    return chain(reserve.si(order_id), charge.si(order_id), confirm.s())


def renew(order_ids):
    """Return what is done for orders that are renewed: all are charged at once, then confirmed together."""
    return chord([charge.si(order_id) for order_id in order_ids], confirm.s())
