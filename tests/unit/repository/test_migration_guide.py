"""docs/from-celery.md shows the whole difference between a plain shop and a durable one, and counts it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from support.repository import ROOT

GUIDE = (ROOT / "docs/from-celery.md").read_text()
SHOP = ROOT / "examples/django_shop"
PATCH = SHOP / "durable.patch"
CANVASES = re.compile(r"^def (\w+)\(.*\n(?:.*\n)*?    return (?:chain|chord)\(", re.MULTILINE)


def changed_lines() -> tuple[list[str], list[str]]:
    """Return the lines of code that the patch removes and those that it adds, without their indentation."""
    lines = [line for line in PATCH.read_text().splitlines() if line[:3] not in ("---", "+++")]
    removed, added = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    return removed, added


def test_the_guide_shows_the_patch_of_the_example() -> None:
    [shown] = re.findall(r"^```diff\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)

    assert shown == PATCH.read_text()


def test_two_lines_are_needed_once_and_one_for_each_canvas() -> None:
    removed, added = changed_lines()
    canvases = CANVASES.findall((SHOP / "shop/canvases.py").read_text())

    once = [line for line in added if "durable(" not in line]
    assert once == ['"workflow_engine.django",', "from workflow_engine import durable"]
    assert len(canvases) == 2
    starts = [line for line in added if line not in once]
    assert len(starts) == len(removed) == len(canvases)
    for canvas, before, after in zip(canvases, removed, starts, strict=True):
        assert re.fullmatch(rf"transaction\.on_commit\({canvas}\((\w|\.)+\)\.delay\)", before)
        assert re.fullmatch(rf"durable\({canvas}\((\w|\.)+\)\)\.start\(\)", after)


def test_the_patch_fits_the_shop_and_leaves_its_tasks_canvases_and_tests_alone(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(SHOP, shop, ignore=shutil.ignore_patterns("__pycache__"))
    # Outside of any repository, where git would look for the files.
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    subprocess.run(["git", "apply", "durable.patch"], cwd=shop, env=alone, check=True)

    files = [path.relative_to(SHOP) for path in SHOP.rglob("*.py")]
    changed = {str(path) for path in files if (shop / path).read_text() != (SHOP / path).read_text()}
    assert changed == {"shop/settings.py", "shop/views.py"}
    for path in changed:
        compile((shop / path).read_text(), path, "exec")


def test_the_command_of_the_guide_starts_the_example() -> None:
    target = re.search(
        r"^shop: \.venv/\.dev\n\t@\.venv/bin/python (\S+)", (ROOT / "Makefile").read_text(), re.M
    )

    assert "$ make shop\n" in GUIDE
    assert "$ make shop ARGS=--durable\n" in GUIDE
    assert target is not None
    assert (ROOT / target[1]).exists()
