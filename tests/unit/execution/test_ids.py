"""Ids are UUIDs in the spelling that Postgres returns."""

from __future__ import annotations

import uuid

from workflow_engine.execution.ids import checked_id, random_uuid


def test_random_ids_are_uuids_of_version_4_and_differ() -> None:
    made = [random_uuid() for _ in range(1000)]

    assert len({*made}) == 1000
    for each in made:
        assert checked_id(each) == each
        assert (uuid.UUID(each).version, uuid.UUID(each).variant) == (4, uuid.RFC_4122)
