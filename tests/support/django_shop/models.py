"""The project's table."""

from django.db import models


class Order(models.Model):
    """The order of a customer."""

    customer = models.CharField(max_length=100, unique=True)

    class Meta:
        app_label = "django_shop"
