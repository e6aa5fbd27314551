"""The files for containers agree with each other, and every generation of Compose accepts them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from support.repository import ROOT
from workflow_engine.settings import Settings

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "workflow-engine"}
LINE = re.compile(r"^(?:# )?([A-Z_]+)=(.*)$", re.MULTILINE)
EXAMPLE = dict(LINE.findall((ROOT / ".env.example").read_text(encoding="utf-8")))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_file_has_no_section_that_an_older_compose_refuses() -> None:
    """1.29 knows these, and nothing that was added to the specification since, such as `name`."""
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"services", "volumes"}
    assert not any(
        isinstance(part, dict) for service in SERVICES.values() for part in service.get("env_file", ())
    )


def test_the_image_is_built_once_and_before_anything_runs_on_it() -> None:
    assert [name for name, service in OURS.items() if "build" in service] == ["migrate"]
    for name in OURS.keys() - {"migrate"}:
        assert OURS[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


@pytest.mark.parametrize("name", OURS)
def test_every_setting_and_secret_of_the_environment_file_reaches_the_engine(name: str) -> None:
    assert OURS[name]["env_file"] == [".env"]
    fixed = {each for each in OURS[name]["environment"] if each.startswith("WORKFLOW_")}
    assert fixed == {"WORKFLOW_ENGINE_DATABASE_URL", "WORKFLOW_ENGINE_REDIS_URL"}


def test_the_environment_file_names_what_is_needed_and_nothing_unknown() -> None:
    needed = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    of_the_engine = {name for name in EXAMPLE if name.startswith("WORKFLOW_")}

    assert needed == EXAMPLE.keys() - of_the_engine
    settings = {f"WORKFLOW_ENGINE_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in of_the_engine if not name.startswith("WORKFLOW_SECRET_")} <= settings


def test_the_image_gets_what_it_is_built_from() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)

    for source in (name for line in sources for name in line.split()):
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
