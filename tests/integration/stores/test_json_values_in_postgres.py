"""A value in normal form comes back the same from Redis' bytes and from Postgres' jsonb."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from workflow_engine.json_values import decode, decode_jsonb, encode, normalise

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
floats = st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: not 2.0**63 <= value < 2.0**64)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | floats | st.floats(1e15, 1e18) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def connection(database_url: str) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(database_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def typed(value: Any) -> Any:
    """Return the value with the type of each part, since 1 == 1.0 == True, and its keys in order."""
    if isinstance(value, dict):
        return dict, [(key, typed(item)) for key, item in value.items()]
    if isinstance(value, list):
        return list, [typed(item) for item in value]
    return type(value), repr(value)


def in_order(value: Any) -> Any:
    """Return the value with the keys of every object sorted."""
    if isinstance(value, dict):
        return {key: in_order(item) for key, item in sorted(value.items())}
    return [in_order(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values)
@example(value=[-0.0, 1.0, 1e16, -1e16, 9999999999999998.0, 2.0**62, 2.0**64, -1e19, 1e22, 1e308, 5e-324])
@example(value=[2**63 - 1, -(2**63), 2**53 + 1, True, 1, None, "", {}, [], "\\u0000", "\x7f\u2028\U0001f600"])
def test_a_normal_form_comes_back_from_jsonb_with_equal_types(
    connection: sqlalchemy.Connection, value: Any
) -> None:
    normal = normalise(value)

    stored = connection.execute(
        sqlalchemy.text("SELECT CAST(CAST(:value AS jsonb) AS text)"), {"value": encode(normal).decode()}
    ).scalar_one()

    read = typed(decode(encode(normal)))
    assert typed(decode_jsonb(stored)) == read == typed(in_order(normal))


def test_the_deepest_value_allowed_fits_into_jsonb(connection: sqlalchemy.Connection) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = {"in": deep}
    normal = normalise(deep)

    stored = connection.execute(
        sqlalchemy.text("SELECT CAST(CAST(:value AS jsonb) AS text)"), {"value": encode(normal).decode()}
    ).scalar_one()

    assert decode_jsonb(stored) == deep
