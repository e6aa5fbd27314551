"""Constraints that a migration adds without reading the rows, which are read afterwards while workers write.

A migration is one transaction, and closes a table that it alters to all others. New rows are checked from
then on. An upgrade that was interrupted is finished by the next one.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Engine, text

LEFT = """
SELECT quote_ident(t.relname), quote_ident(c.conname)
FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE n.nspname = :schema AND c.contype = 'c' AND c.conislocal AND NOT c.convalidated
    AND t.relname = ANY(:tables)
ORDER BY 1, 2
"""


def validate_checks(engine: Engine, schema: str, tables: Iterable[str]) -> None:
    """Validate the checks of these tables that have not read all rows. Repeating it does no harm."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        left = connection.execute(text(LEFT), {"schema": schema, "tables": sorted(tables)}).all()
        for table, constraint in left:
            connection.exec_driver_sql(f'ALTER TABLE "{schema}".{table} VALIDATE CONSTRAINT {constraint}')
