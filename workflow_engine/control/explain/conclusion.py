"""Conclusion: of the reasons of one execution the one that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workflow_engine.control.explain.explanation import Code, Explanation
from workflow_engine.control.explain.facts import Facts
from workflow_engine.control.explain.joins import join_of
from workflow_engine.control.explain.reason import Reason
from workflow_engine.control.explain.reasons import reasons

URGENCY = (
    Code.RUNNING,
    Code.HELD_BY_DEAD,
    Code.GIVEN_BACK,
    Code.NO_WORKER,
    Code.QUEUE_PAUSED,
    Code.UNKNOWN_TYPE,
    Code.STALLED,
    Code.LIMITED,
    Code.QUEUED,
    Code.RETRYING,
    Code.WAITING_EVENTS,
    Code.WAITING_CHILDREN,
    Code.WAITING_TIME,
)
"""Which code counts if open nodes have different ones and no merge waits for them: the first of these."""


@dataclass(frozen=True)
class Conclusion:
    """The reason that counts, of all that were found."""

    facts: Facts
    reason: Reason
    found: Sequence[Reason]

    @property
    def execution_id(self) -> str:
        return self.facts.execution.id

    def explanation(self) -> Explanation:
        """Write down what there is to say."""
        main, account, execution = self.reason, self.reason.account, self.facts.execution
        others = [
            {"code": each.code.value, "nodeId": each.node_id, "sentence": each.account.sentence}
            for each in self.found
            if each is not main
        ]
        has_others = others and main.code is not Code.JOIN
        return Explanation(
            execution.id,
            main.code,
            account.sentence,
            {**account.evidence, **({"others": others} if has_others else {})},
            account.command,
            account.advice,
            listed_servers(self.facts.unasked),
            execution.status,
            execution.workflow_id,
            main.node_id,
            main.subject,
        )


def conclusion_of(facts: Facts) -> Conclusion:
    """Choose the reason that counts."""
    found = reasons(facts)
    if len(found) == 1:
        return Conclusion(facts, found[0], found)
    return Conclusion(facts, join_of(facts, found) or min(found, key=_urgency), found)


def listed_servers(unasked: Mapping[str, str]) -> list[str]:
    """Return the servers that could not be asked, each with the reason."""
    return [f"{server}: {reason}" for server, reason in unasked.items()]


def _urgency(reason: Reason) -> int:
    return URGENCY.index(reason.code) if reason.code in URGENCY else -1
