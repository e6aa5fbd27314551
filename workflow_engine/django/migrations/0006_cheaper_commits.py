"""A commit takes the rows of pure nodes along in one document, and touches the execution once."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from workflow_engine.django.revisions import AlembicRevision


class Migration(migrations.Migration):
    """Runs revision 0006."""

    atomic = False  # a revision is a transaction of its own
    dependencies: ClassVar = [("workflow_engine", "0005_queue_deadlines")]
    operations: ClassVar = [AlembicRevision("0006")]
