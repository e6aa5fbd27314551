"""The name under which the history records what a command did."""

from __future__ import annotations

import getpass


def os_user() -> str | None:
    """Return the name of the user who is logged in; None if the system has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
