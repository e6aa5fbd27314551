"""A commit writes the rows of pure nodes, too, a start checks its way in, and a function checks the rows."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from workflow_engine.django.revisions import AlembicRevision


class Migration(migrations.Migration):
    """Runs revision 0006."""

    atomic = False  # a revision is a transaction of its own
    dependencies: ClassVar = [("workflow_engine", "0005_queue_deadlines")]
    operations: ClassVar = [AlembicRevision("0006")]
