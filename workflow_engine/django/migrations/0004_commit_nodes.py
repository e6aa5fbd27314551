"""How rows of pure nodes are committed together."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from workflow_engine.django.revisions import AlembicRevision


class Migration(migrations.Migration):
    """Runs revision 0004."""

    atomic = False  # a revision is a transaction of its own
    dependencies: ClassVar = [("workflow_engine", "0003_node_parts")]
    operations: ClassVar = [AlembicRevision("0004")]
