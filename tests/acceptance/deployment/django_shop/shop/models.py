"""The project's tables."""

from django.db import models


class Order(models.Model):
    """The order of a customer."""

    customer = models.CharField(max_length=100)
    receipt = models.CharField(max_length=100, blank=True)
    counted = models.PositiveIntegerField(default=0)
