"""`trigger/scheduler`: a cron expression or one time, a zone, a beginning, an end, a policy for missed times.

Its whole config is constant: the schedule is kept in the table of triggers, and an execution that it starts
gets constant data and the time it was scheduled for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from workflow_engine.execution.annotations import checked_metadata, checked_tags
from workflow_engine.nodes.config_fields import ConstantText, has_expression
from workflow_engine.nodes.contract import NodeType
from workflow_engine.nodes.trigger.cron import CronSchedule, SingleTime, check_cron, instant, time_zone
from workflow_engine.nodes.trigger.direct import VERBATIM, Trigger, TriggerConfig, check_trigger_data

SCHEDULED_FOR = "scheduledFor"
"""The key of a scheduled start's data that holds its due time, in ISO 8601."""


def _cron(expression: str) -> str:
    check_cron(expression)
    return expression


def _zone(name: str) -> str:
    time_zone(name)
    return name


def _constant(data: dict[str, Any]) -> dict[str, Any]:
    if has_expression(data):
        raise ValueError(
            "contains an expression, which is not evaluated here; write it where the data is used"
        )
    if SCHEDULED_FOR in data:
        raise ValueError(f"{SCHEDULED_FOR!r} is set by the engine; rename yours")
    return data


def _metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if has_expression(metadata):
        raise ValueError("contains an expression, which is not evaluated here")
    checked_metadata(metadata)
    return metadata


def _tags(tags: list[str]) -> list[str]:
    if has_expression(tags):
        raise ValueError("contains an expression, which is not evaluated here")
    return list(checked_tags(tags))


class SchedulerConfig(TriggerConfig):
    """Config of `trigger/scheduler`."""

    cron: Annotated[ConstantText, AfterValidator(_cron)] | None = Field(
        None, description="five fields: minute, hour, day of month, month, day of week; 0 9 * * MON-FRI"
    )
    timezone: Annotated[ConstantText, AfterValidator(_zone)] = Field(
        "UTC", description="IANA time zone in which `cron` is read, such as Europe/Berlin"
    )
    at: ConstantText | None = Field(
        None,
        description="in place of `cron`: its only time, ISO 8601; in `timezone` if it names no offset",
    )
    start: ConstantText | None = Field(
        None, description="first time it may fire, ISO 8601; in `timezone` if it names no offset"
    )
    end: ConstantText | None = Field(
        None, description="last time it may fire, ISO 8601; in `timezone` if it names no offset"
    )
    catch_up: Literal["skip", "latest", "all"] = Field(
        "skip",
        description="missed times that are made up: none, the last or all; `at` is, unless `skip` is given",
    )
    data: Annotated[dict[str, Any], AfterValidator(_constant)] = Field(
        default_factory=dict, description="data of the executions it starts, to which `scheduledFor` is added"
    )

    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] = Field(
        default_factory=dict, description="metadata of the executions it starts"
    )
    tags: Annotated[list[str], AfterValidator(_tags)] = Field(
        default_factory=list, description="tags of the executions it starts"
    )

    @field_validator("at", "start", "end")
    @classmethod
    def _is_a_time(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is not None and "timezone" in info.data:
            instant(text, time_zone(info.data["timezone"]))
        return text

    @model_validator(mode="after")
    def _can_start_something(self) -> SchedulerConfig:
        if (self.cron is None) == (self.at is None):
            raise ValueError("give either `cron`, for times that return, or `at`, for a single one")
        if self.at is not None and (self.start is not None or self.end is not None):
            raise ValueError("`at` is a single time, so `start` and `end` have no meaning; remove them")
        schedule = self.schedule
        if schedule.start is not None and schedule.end is not None and schedule.end < schedule.start:
            raise ValueError(f"it ends, {self.end}, before it starts, {self.start}; change one of them")
        sample = {SCHEDULED_FOR: "2026-01-01T00:00:00Z", **self.data}
        if self.data_schema is not None and (
            problems := check_trigger_data({"schema": self.data_schema}, sample)
        ):
            raise ValueError(
                f"`schema` rejects the data that it starts with: {'; '.join(map(str, problems))}"
            )
        return self

    @property
    def missed(self) -> Literal["skip", "latest", "all"]:
        """What becomes of missed times: a single one that was missed would be gone for good."""
        return "latest" if self.at is not None and "catch_up" not in self.model_fields_set else self.catch_up

    @property
    def schedule(self) -> CronSchedule | SingleTime:
        """The times at which it is due."""
        zone = time_zone(self.timezone)
        if self.at is not None:
            at = instant(self.at, zone)
            return SingleTime(at, at, at)
        assert self.cron is not None  # one of the two is given
        start, end = (instant(text, zone) if text is not None else None for text in (self.start, self.end))
        return CronSchedule(self.cron, zone, start, end)


NODE_TYPE = NodeType(
    "trigger",
    "scheduler",
    Trigger(),
    SchedulerConfig,
    verbatim=VERBATIM | {"cron", "at", "timezone", "start", "end", "catchUp", "data", "metadata", "tags"},
    description="Started by a schedule.",
)
