"""Until when nodes with a queueTimeout have to begin."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from workflow_engine.django.revisions import AlembicRevision


class Migration(migrations.Migration):
    """Runs revision 0005."""

    atomic = False  # a revision is a transaction of its own
    dependencies: ClassVar = [("workflow_engine", "0004_commit_nodes")]
    operations: ClassVar = [AlembicRevision("0005")]
