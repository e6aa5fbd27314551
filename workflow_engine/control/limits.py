"""LimitControl: what operators see of limits, and the numbers that they set."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_engine.definition.workflow import rate_of
from workflow_engine.engine.publisher import Publisher
from workflow_engine.errors import InvalidValue
from workflow_engine.execution.bounded_texts import shorten
from workflow_engine.execution.ids import checked_id
from workflow_engine.execution.records import FollowUps
from workflow_engine.json_values import LARGEST_INTEGER, normalise
from workflow_engine.postgres.limits import Limits, LimitUse, SlotStanding
from workflow_engine.runner.limits import LONGEST_KEY


class LimitControl:
    """Lists and sets limits by their keys. Every method may raise `DatabaseUnavailable`."""

    def __init__(self, limits: Limits, publisher: Publisher) -> None:
        self._limits = limits
        self._publisher = publisher

    def list(self, *, limit: int = 100) -> Sequence[LimitUse]:
        """Return the keys that are in use or set by an operator, those with the longest lines first."""
        return self._limits.uses(limit=limit)

    def get(self, key: str) -> LimitUse | None:
        """Return one key; None if no owner holds or waits for a slot of it, and no number is set."""
        return next(iter(self._limits.uses(key)), None)

    def standing(self, execution_id: str) -> Sequence[SlotStanding]:
        """Return the slots that an execution and its nodes hold or wait for, with their place in line."""
        return self._limits.standing(checked_id(execution_id))

    def set(
        self,
        key: str,
        *,
        concurrency: int | None = None,
        rate: str | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> None:
        """Set the concurrency or rate of a key, in place of what definitions say, from now on.

        0 admits no further owner; those that hold a slot keep it. What is not given stays as it is. Raises
        `InvalidValue`.
        """
        _check_key(key)
        if concurrency is None and rate is None:
            raise InvalidValue("concurrency", "nothing is set; give a concurrency, a rate or both")
        if concurrency is not None and not 0 <= concurrency <= LARGEST_INTEGER:
            raise InvalidValue("concurrency", f"{concurrency} is not a whole number from 0 on")
        try:
            parsed = None if rate is None else rate_of(rate)
        except ValueError as error:
            raise InvalidValue("rate", str(error)) from None
        self._limits.set(
            key,
            concurrency=None if concurrency is None else min(concurrency, 2**31 - 1),
            rate=parsed,
            actor=actor and shorten(normalise(actor, "actor")),
            reason=reason and shorten(normalise(reason, "reason")),
        )
        self._publisher.follow_up(FollowUps(freed=(key,)))

    def reset(self, key: str) -> bool:
        """Return to the numbers of the definitions. Return False if none were set for this key."""
        _check_key(key)
        was_set = self._limits.reset(key)
        self._publisher.follow_up(FollowUps(freed=(key,)))
        return was_set


def _check_key(key: str) -> None:
    normalise(key, "key")
    if not 0 < len(key) <= LONGEST_KEY:
        raise InvalidValue("key", f"it has {len(key)} characters, not 1 to {LONGEST_KEY}")
