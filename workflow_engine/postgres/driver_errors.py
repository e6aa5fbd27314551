"""Translates the errors of the driver into the engine's, also where SQLAlchemy has wrapped them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

import psycopg2

from workflow_engine.errors import (
    ChildrenRefused,
    DatabaseOutdated,
    DatabaseUnavailable,
    InvalidValue,
    SettingsInvalid,
    WorkflowEngineError,
)
from workflow_engine.outages import outages

UNDEFINED_TABLE = "42P01"
UNDEFINED_COLUMN = "42703"
UNDEFINED_FUNCTION = "42883"
INSUFFICIENT_PRIVILEGE = "42501"
READ_ONLY = "25006"
TOO_MUCH = "54"
"""Class of errors about limits of Postgres that a value exceeds, such as the size of an index entry."""
INTERNAL = "XX"
CHILDREN_REFUSED = "WE001"
"""The engine's own code, raised by `open_children`."""


class ErrorClasses(Protocol):
    """The classes of errors that PEP 249 names, as drivers have them, and frameworks in place of a driver."""

    @property
    def DataError(self) -> type[Exception]: ...  # noqa: N802

    @property
    def InterfaceError(self) -> type[Exception]: ...  # noqa: N802

    @property
    def OperationalError(self) -> type[Exception]: ...  # noqa: N802


class _EngineErrors:
    # Not a generator, which costs more: every hop runs this several times.
    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            outages.record_reply(DatabaseUnavailable)
        elif (translated := _in_terms_of_the_engine(error)) is not None:
            raise translated from error


_engine_errors = _EngineErrors()


def engine_errors() -> AbstractContextManager[None]:
    """Turn a driver's errors into the engine's.

    Raises `DatabaseUnavailable` where repeating the statement may help, `DatabaseOutdated` where a table,
    column or function is missing, `InvalidValue` for content that Postgres refuses, `SettingsInvalid` for a
    URL with an option that libpq does not know. Any other error is a mistake in the statement, and stays as
    it is.
    """
    return _engine_errors


def _in_terms_of_the_engine(error: BaseException) -> Exception | None:
    """Return the error to raise in place of this one; None to leave it as it is."""
    if isinstance(error, ValueError):
        if isinstance(error, UnicodeEncodeError) or "NUL (0x00)" in str(error):
            # psycopg2 raises this before it sends anything.
            return InvalidValue("text", f"Postgres cannot store it: {error}")
        return None
    original = getattr(error, "orig", error)  # SQLAlchemy's errors hold the driver's; migrations use it
    return translate(original, psycopg2) if isinstance(original, psycopg2.Error) else None


def sqlstate(error: BaseException | None) -> str | None:
    """Return Postgres's code for an error of psycopg2; None if it did not come from the server."""
    return getattr(error, "pgcode", None)


def translate(error: Exception, classes: ErrorClasses, code: str | None = None) -> WorkflowEngineError | None:
    """Return the engine's error for one of a driver with these classes; None if there is none.

    `code` is Postgres's code for it, for errors that do not carry psycopg2's.
    """
    code = code or sqlstate(error) or ""
    if code == CHILDREN_REFUSED or isinstance(error, classes.DataError) or code.startswith(TOO_MUCH):
        return _refusal(error, code)
    if code == INSUFFICIENT_PRIVILEGE:
        return DatabaseUnavailable(f"Postgres refuses this user: {_first_line(error)}")
    if code in (UNDEFINED_TABLE, UNDEFINED_COLUMN, UNDEFINED_FUNCTION):
        return DatabaseOutdated(
            f"the tables are not those of this release ({_first_line(error)}); "
            "run `workflow-engine db upgrade`"
        )
    if not code:
        return _translate_libpq(error, classes)
    # By their classes: no disk, memory or connection left, shut down, cancelled, deadlock, and the like.
    if isinstance(error, classes.OperationalError) or code == READ_ONLY or code.startswith(INTERNAL):
        return DatabaseUnavailable(f"Postgres cannot execute the statement now: {_first_line(error)}")
    return None


def _refusal(error: Exception, code: str) -> InvalidValue:
    if code == CHILDREN_REFUSED:
        return ChildrenRefused(_first_line(error))
    return InvalidValue("data", f"Postgres refuses it: {_first_line(error)}")


def _translate_libpq(error: Exception, classes: ErrorClasses) -> WorkflowEngineError | None:
    """Translate an error that no server has sent."""
    if isinstance(error, (classes.OperationalError, classes.InterfaceError)):
        return DatabaseUnavailable(f"Postgres is unavailable: {_first_line(error)}")
    if "invalid dsn" in str(error):
        return SettingsInvalid(f"WORKFLOW_ENGINE_DATABASE_URL: {_first_line(error)}")
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
