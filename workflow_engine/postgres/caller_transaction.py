"""Transactions of callers: what is written in them commits or rolls back with the caller's own rows.

SQLAlchemy also reports a commit when a savepoint is released, and when a session has joined a transaction
from outside that may still roll back. A message is published only after the outermost commit, and never if
its start was rolled back on the way.

A caller in asyncio has the same sessions and connections, inside of `run_sync`. What the engine does on
connections of its own would block the event loop there: it happens in a thread, which the caller awaits.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, Dialect, Engine, RootTransaction, event, make_url, text
from sqlalchemy.exc import UnboundExecutionError

from workflow_engine.errors import BackingServiceUnavailable, SessionRefused
from workflow_engine.outages import outages
from workflow_engine.postgres.background import Background
from workflow_engine.postgres.database import PooledDatabase, Row, Statements
from workflow_engine.telemetry.log_events import LogEvent, log_fields

if TYPE_CHECKING:
    # A caller with a session has loaded SQLAlchemy's ORM; other callers should not have to.
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, SessionTransaction, scoped_session

    CallersSession = Session | scoped_session[Session] | Connection
    AsyncCallersSession = AsyncSession | async_scoped_session[AsyncSession] | AsyncConnection

log = logging.getLogger(__name__)

Publish = Callable[[], None]
T = TypeVar("T")

LONGEST_DELAY = 2.0
"""Seconds by which an unresponsive broker may delay a caller's commit."""

# The start time distinguishes the running server even from a copy of its data. Neither time zone, date style
# nor a pooler in between changes how it reads.
IDENTITY = """
SELECT current_database() || to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', ' YYYYMMDDHH24MISSUS')
"""

PLACEHOLDER = re.compile(r"%\((\w+)\)s")
"""A parameter as psycopg2 writes it; SQLAlchemy writes it for every driver."""

_publishing = Background("publish executions started in a transaction")


class CallersTransaction(Protocol):
    """A transaction that the caller began, and will commit or roll back."""

    @property
    def statements(self) -> Statements | None:
        """Executes statements as part of it; None if the engine's own statements are part of it anyway."""

    def beside(self, call: Callable[[], T]) -> T:
        """Make a call that uses connections of the engine's own, without blocking the caller's event loop."""

    def after_commit(self, execution_id: str, publish: Publish) -> None:
        """Call `publish` once everything written so far has committed for good, and never otherwise."""


@dataclass(frozen=True)
class SqlalchemyTransaction:
    """The transaction of a session or connection of SQLAlchemy."""

    connection: Connection
    statements: Statements
    _session: Session | None = None

    def beside(self, call: Callable[[], T]) -> T:
        return _off_the_event_loop(self.connection.dialect, call)

    def after_commit(self, execution_id: str, publish: Publish) -> None:
        """Call `publish` in another thread, which the commit waits for, `LONGEST_DELAY` at most.

        SQLAlchemy does not report the commit of a transaction that no session began; then `publish` is never
        called.
        """
        if self._session is None:
            return
        publications: _Publications | None = self._session.info.get(__name__)
        if publications is None:
            dialect = self.connection.dialect
            publications = self._session.info[__name__] = _Publications(self._session, dialect)
        publications.add(self._session, self.connection, execution_id, publish)


class CallersTransactions:
    """Joins transactions of callers in the database that the engine uses."""

    def __init__(self, database: PooledDatabase) -> None:
        self._database = database
        self._in_same_database: WeakSet[Engine] = WeakSet()

    def join(self, session: CallersSession) -> SqlalchemyTransaction:
        """Return the transaction of a session or connection; begin one if there is none.

        Raises `SessionRefused`, with nothing written, if the transaction cannot hold the caller's rows and an
        execution together. Errors of the caller's own connection are raised as they are.
        """
        from sqlalchemy.orm import Session, scoped_session

        if isinstance(session, scoped_session):
            session = session()
        if isinstance(session, Session):
            joined = self._joined(_connection_of(session), session)
        elif isinstance(session, Connection):
            joined = self._joined(session)
        else:
            raise SessionRefused(_advice_for(session))
        _check_transactional(joined.connection)
        self._check_database(joined.connection)
        return joined

    def _joined(self, connection: Connection, session: Session | None = None) -> SqlalchemyTransaction:
        return SqlalchemyTransaction(connection, _OnConnection(connection, self._database.schema), session)

    def _check_database(self, connection: Connection) -> None:
        if connection.engine in self._in_same_database:
            return
        theirs = connection.execute(text(IDENTITY)).scalar_one()
        # Second, or a restart in between would look like another server.
        ((ours,),) = _off_the_event_loop(connection.dialect, lambda: self._database.rows(IDENTITY))
        if theirs != ours:
            raise SessionRefused(
                f"session is connected to {connection.engine.url!r}, which is another database than the "
                f"engine's, {make_url(self._database.url)!r}: they cannot commit together"
            )
        self._in_same_database.add(connection.engine)


async def within(session: AsyncCallersSession, call: Callable[[CallersSession], T]) -> T:
    """Make a call with the synchronous session or connection inside of one for asyncio.

    Raises `SessionRefused` for anything else.
    """
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    if isinstance(session, async_scoped_session):
        session = session()
    if isinstance(session, AsyncSession | AsyncConnection):
        return await session.run_sync(call)
    raise SessionRefused(
        f"session is a {type(session).__name__}, which is not for asyncio: pass an AsyncSession or an "
        "AsyncConnection, or use it with the method that is not async, outside of the event loop"
    )


def _off_the_event_loop(dialect: Dialect, call: Callable[[], T]) -> T:
    if not dialect.is_async:
        return call()
    from sqlalchemy.util import await_only

    return await_only(asyncio.to_thread(call))


class _OnConnection(Statements):
    """Statements on a connection of any driver, whose errors are raised as they are."""

    def __init__(self, connection: Connection, schema: str) -> None:
        super().__init__(schema)
        self._connection = connection

    def _execute(self, statement: str, parameters: Mapping[str, Any]) -> list[Row]:
        result = self._connection.execute(text(PLACEHOLDER.sub(r":\1", statement)), dict(parameters))
        return [tuple(row) for row in result] if result.returns_rows else []


@dataclass
class _Publication:
    """A pending message, dropped if the innermost open transaction or savepoint rolls back."""

    depends_on: SessionTransaction
    outermost: RootTransaction | None
    execution_id: str
    publish: Publish


class _Publications:
    """The messages that wait for the commit of one session.

    Its listeners stay with the session, since they cannot be removed while they are called.
    """

    def __init__(self, session: Session, dialect: Dialect) -> None:
        self._dialect = dialect
        self._waiting: list[_Publication] = []
        self._committed: list[_Publication] = []
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_transaction_end", self._after_end)

    def add(self, session: Session, connection: Connection, execution_id: str, publish: Publish) -> None:
        transaction = session.get_nested_transaction() or session.get_transaction()
        assert transaction is not None, "the session is connected"
        self._waiting.append(_Publication(transaction, connection.get_transaction(), execution_id, publish))

    def _after_commit(self, session: Session) -> None:
        if (savepoint := session.get_nested_transaction()) is not None:
            for each in self._waiting:
                if each.depends_on is savepoint:
                    each.depends_on = _around(savepoint)
            return
        for each in self._waiting:
            if each.outermost is None or not each.outermost.is_active:
                self._committed.append(each)

    def _after_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Publish after the outermost end, when the connection is back in its pool."""
        self._waiting = [each for each in self._waiting if each.depends_on is not transaction]
        if transaction.parent is None and self._committed:
            committed, self._committed = self._committed, []
            _off_the_event_loop(
                self._dialect, lambda: _publishing.done_within(LONGEST_DELAY, lambda: _publish_all(committed))
            )


def _around(savepoint: SessionTransaction) -> SessionTransaction:
    """Return the savepoint or transaction that encloses a savepoint; skip flushes, which are neither."""
    around = savepoint.parent
    while around is not None and around.parent is not None and not around.nested:
        around = around.parent
    assert around is not None, "a savepoint is inside a transaction"
    return around


def _publish_all(publications: Sequence[_Publication]) -> None:
    for each in publications:
        publish_committed(each.execution_id, each.publish)


def publish_within_bounds(execution_id: str, publish: Publish) -> None:
    """Publish in another thread, and wait for it `LONGEST_DELAY` at most; raise nothing."""
    _publishing.done_within(LONGEST_DELAY, lambda: publish_committed(execution_id, publish))


def publish_committed(execution_id: str, publish: Publish) -> None:
    """Publish an execution whose start has committed; raise nothing, for a rescue publishes it as well."""
    try:
        with outages.watch("publish executions started in a transaction"):
            publish()
    except BackingServiceUnavailable:
        pass  # recovery rescues the execution
    except Exception as error:
        log.exception(
            "Execution %s was started but could not be published; recovery will rescue it.",
            execution_id,
            extra=log_fields(LogEvent.PUBLICATION_FAILED, execution_id=execution_id, error=error),
        )


def _connection_of(session: Session) -> Connection:
    try:
        return session.connection()
    except UnboundExecutionError as error:
        raise SessionRefused(
            "the session has no database by default; give `start` the connection to the engine's database, "
            "session.connection(bind_arguments=…), and call publish() of what it returns after the commit"
        ) from error


def _check_transactional(connection: Connection) -> None:
    dialect = connection.dialect
    if dialect.name != "postgresql":
        raise SessionRefused(
            f"session is connected to {dialect.name}, executions are in Postgres: they cannot commit together"
        )
    in_driver = connection.connection.dbapi_connection
    if in_driver is not None and dialect.detect_autocommit_setting(in_driver):
        raise SessionRefused(
            "session is in autocommit mode, where each statement commits by itself: begin a transaction with "
            "another isolation level, or leave `session` out"
        )


def _advice_for(session: Any) -> str:
    name = type(session).__name__
    modules = {base.__module__.rpartition(".")[0] for base in type(session).__mro__}
    if isinstance(session, Engine):
        return "session is an Engine; use a connection of it, `with engine.begin() as connection`"
    if "sqlalchemy.ext.asyncio" in modules:
        return (
            f"session is an {name}: use `await client.start_async(…, session=session)`, or, in a function "
            "that `run_sync` calls, the session that it is given"
        )
    return f"session is a {name}; it must be a Session or a Connection of SQLAlchemy"
