"""The table of orders, as `manage.py makemigrations` writes it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
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
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("PLACED", "Placed"),
                            ("RESERVED", "Reserved"),
                            ("CHARGING", "Charging"),
                            ("CHARGED", "Charged"),
                            ("CONFIRMED", "Confirmed"),
                        ],
                        default="PLACED",
                        max_length=20,
                    ),
                ),
                ("receipt", models.CharField(blank=True, max_length=100)),
            ],
        ),
    ]
