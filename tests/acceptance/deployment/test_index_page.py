"""Every link on the project's page on an index of packages leads somewhere."""

from __future__ import annotations

import re
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

from support.installation import build_wheel, copy_sources
from support.repository import ROOT

SOURCE = "https://code.example/engine"
LINK = re.compile(r"(!?)\[[^]]*\]\(([^)#]+)")


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


def metadata_with(folder: Path, urls: str) -> Message:
    """Return the metadata of a wheel that is built with this table of addresses."""
    copy_sources(folder / "source")
    configuration = folder / "source/pyproject.toml"
    without = re.sub(r"\[project\.urls\]\n(?:.+\n)*\n?", "", configuration.read_text())
    configuration.write_text(without.replace("[project.scripts]", f"{urls}[project.scripts]"))
    return metadata_of(build_wheel(folder / "source", folder / "built"))


def links_of(metadata: Message) -> list[tuple[str, str]]:
    """Return where the links of the page lead, each behind `!` if it is a picture."""
    return LINK.findall(metadata.get_payload())


def test_it_tells_what_the_project_is_for_whom_and_on_what(wheel: Path) -> None:
    metadata = metadata_of(wheel)

    assert "# Workflow engine" in metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    for field in ("Summary", "Keywords", "Requires-Python"):
        assert metadata[field], field
    subjects = {classifier.partition(" :: ")[0] for classifier in metadata.get_all("Classifier")}
    assert {"Development Status", "Framework", "Intended Audience", "Topic"} <= subjects


def test_while_the_repository_has_no_public_address_texts_stand_for_links(tmp_path: Path) -> None:
    metadata = metadata_with(tmp_path, "")

    assert metadata.get_all("Project-URL") is None
    assert links_of(metadata) == []
    assert "More: your first node · writing workflows" in metadata.get_payload()


def test_once_it_has_one_every_link_leads_to_a_file_of_the_repository(tmp_path: Path) -> None:
    metadata = metadata_with(tmp_path, f'[project.urls]\nSource = "{SOURCE}"\n\n')

    links = links_of(metadata)
    assert len(links) == len(LINK.findall((ROOT / "README.md").read_text()))
    for picture, address in links:
        start = f"{SOURCE}/{'raw' if picture else 'blob'}/HEAD/"
        assert address.startswith(start)
        assert (ROOT / address.removeprefix(start)).is_file()
    assert metadata["Project-URL"] == f"Source, {SOURCE}"
