"""Every revision of the engine's tables is a migration of Django as well."""

import re

from support.repository import ROOT
from workflow_engine.postgres import migrations

FOLDER = ROOT / "workflow_engine/django/migrations"
RUN = re.compile(r'AlembicRevision\("(\w+)"\)')


def test_django_runs_each_revision_in_a_migration_of_the_same_name_and_in_order() -> None:
    files = sorted(FOLDER.glob("[0-9]*.py"))
    texts = [path.read_text() for path in files]

    ran = [revision for text in texts for revision in RUN.findall(text)]
    assert ran == sorted(migrations.all_revisions()), (
        f"add a migration like {files[-1].name} to {FOLDER.name}/"
    )
    assert [path.name[:4] for path in files] == ran
    for earlier, text in zip(files, texts[1:], strict=False):
        assert f'("workflow_engine", "{earlier.stem}")' in text
    assert all("atomic = False" in text for text in texts)
