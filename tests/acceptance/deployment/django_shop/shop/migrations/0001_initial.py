"""As `manage.py makemigrations` writes it."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    """The table of orders."""

    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="Order",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("customer", models.CharField(max_length=100)),
                ("receipt", models.CharField(blank=True, max_length=100)),
                ("counted", models.PositiveIntegerField(default=0)),
            ],
        ),
    ]
