"""Importing the modules that a team names: where they are searched for, and why one cannot be imported.

Python searches beside the program it runs, which for an installed command is a folder of programs. Celery
searches the current directory as well, and so do the engine's workers and its command line.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from types import ModuleType

from workflow_engine.errors import ModuleFailed

IMPORTERS = frozenset({"importlib", "celery", "kombu", "workflow_engine"})
"""Packages that import modules for a team; a place in one of them is no help."""


def search_current_directory() -> None:
    """Let modules be found in the current directory, before those of installed packages."""
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)


def import_named(module: str) -> ModuleType:
    """Import a module that a setting or an option names.

    Raises `ModuleFailed` for any error of the module.
    """
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ModuleFailed(module, import_failure(error), error) from error


def import_failure(error: BaseException) -> str:
    """Return in one line why an import failed, with the place in the team's code."""
    message = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {message}" if message else type(error).__name__
    place = _place(error)
    return f"{reason} ({place})" if place else reason


def _place(error: BaseException) -> str | None:
    """Return file and line; None if no module of the team ran, because it is missing."""
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in IMPORTERS
    ]
    own = [place for place in places if "site-packages" not in place[0]] or places
    return "{}, line {}".format(*own[-1]) if own else None
