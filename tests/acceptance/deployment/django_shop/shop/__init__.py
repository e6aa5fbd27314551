"""A Django project with Celery, as Celery's own documentation lays one out."""

from shop.celery import app as celery_app

__all__ = ("celery_app",)
