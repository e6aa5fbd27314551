"""How a node of many parts keeps its progress."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from workflow_engine.django.revisions import AlembicRevision


class Migration(migrations.Migration):
    """Runs revision 0003."""

    atomic = False  # a revision is a transaction of its own
    dependencies: ClassVar = [("workflow_engine", "0002_functions")]
    operations: ClassVar = [AlembicRevision("0003")]
