"""Rows of the journal that Postgres refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def refused_rows(sql: Callable[..., Any], condition: str) -> Iterator[None]:
    """Make Postgres refuse the rows of the journal for which a condition on `NEW` holds."""
    sql(f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF {condition} THEN
                RAISE EXCEPTION 'invalid byte sequence' USING ERRCODE = 'character_not_in_repertoire';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON node_executions FOR EACH ROW EXECUTE FUNCTION refuse()
    """)
    yield
    sql("DROP FUNCTION refuse() CASCADE")
