"""A task that the team has had before, and a node."""

from pathlib import Path

from celery import current_app, shared_task

from workflow_engine import node


@shared_task
def thank(customer):
    Path("thanked").write_text(f"{customer} by {current_app.main}")


@node("shop.label")
def label(city: str) -> str:
    return f"To {city}"
