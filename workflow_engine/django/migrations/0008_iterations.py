"""A node that repeats has one row that waits, and the end of a restarted child has the next one restarted."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from workflow_engine.django.revisions import AlembicRevision


class Migration(migrations.Migration):
    """Runs revision 0008."""

    atomic = False  # a revision is a transaction of its own
    dependencies: ClassVar = [("workflow_engine", "0006_cheaper_commits")]
    operations: ClassVar = [AlembicRevision("0008")]
