"""A shop on Django and Celery, laid out as in Celery's guide for Django.

- `settings`, `celery`, `urls`: Django's settings, the Celery app, the addresses
- `models`: orders
- `tasks`: what is done for an order
- `canvases`: those tasks as a chain and as a chord
- `views`: what customers and the shop's owner ask for
- `tests`: the shop's own tests
"""

from shop.celery import app as celery_app

__all__ = ("celery_app",)
