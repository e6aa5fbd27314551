"""The shop's tables."""

from django.db import models


class Order(models.Model):
    """An order, and how far it has come."""

    class Status(models.TextChoices):
        """What has been done for an order, in this order."""

        PLACED = "PLACED"
        RESERVED = "RESERVED"
        CHARGING = "CHARGING"
        CHARGED = "CHARGED"
        CONFIRMED = "CONFIRMED"

    customer = models.CharField(max_length=100)
    status = models.CharField(max_length=20, choices=Status, default=Status.PLACED)
    receipt = models.CharField(max_length=100, blank=True)
