"""The tables of the first release, and the models that read them."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

from workflow_engine.django.models import OPERATE, table
from workflow_engine.django.revisions import AlembicRevision


class Migration(migrations.Migration):
    """Runs revision 0001, and makes the models known, whose tables Django does not manage."""

    initial = True
    atomic = False  # a revision is a transaction of its own
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar = [
        AlembicRevision("0001"),
        migrations.CreateModel(
            "Execution",
            # Django compares no fields of models that it does not manage.
            fields=[("id", models.UUIDField(primary_key=True, serialize=False))],
            options={
                "managed": False,
                "db_table": table("executions"),
                "ordering": ["-id"],
                "default_permissions": ["view"],
                "permissions": [OPERATE],
            },
        ),
        migrations.CreateModel(
            "NodeExecution",
            fields=[
                ("pk", models.CompositePrimaryKey("execution_id", "seq", primary_key=True, serialize=False)),
                ("execution_id", models.UUIDField()),
                ("seq", models.IntegerField()),
            ],
            options={
                "managed": False,
                "db_table": table("node_executions"),
                "ordering": ["execution_id", "seq"],
                "default_permissions": ["view"],
            },
        ),
    ]
