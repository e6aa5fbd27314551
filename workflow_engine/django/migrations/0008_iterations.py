"""A node that repeats has one row that waits, whatever the number of its iterations."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from workflow_engine.django.revisions import AlembicRevision


class Migration(migrations.Migration):
    """Runs revision 0008."""

    atomic = False  # a revision is a transaction of its own
    dependencies: ClassVar = [("workflow_engine", "0005_queue_deadlines")]
    operations: ClassVar = [AlembicRevision("0008")]
