"""Every setting of the engine: its default, its unit and its environment variable (`WORKFLOW_ENGINE_…`).

Each process reads its settings once. An environment variable is the prefix and the field's name in upper
case: `WORKFLOW_ENGINE_DATABASE_URL`, `WORKFLOW_ENGINE_LOCK_EXPIRY` and so on. A project with settings of its
own, such as one of Django, may give those that the environment does not.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from workflow_engine.addresses.broker import broker_configuration
from workflow_engine.addresses.reachable import ReachableHosts
from workflow_engine.addresses.redis import CLUSTER_SCHEMES, NO_FILES, SEVERAL, RedisAddress, TlsFiles
from workflow_engine.addresses.redis import SCHEMES as REDIS_SCHEMES
from workflow_engine.errors import SettingsInvalid

ENVIRONMENT_PREFIX = "WORKFLOW_ENGINE_"
POSTGRES_SCHEMES = ("postgresql", "postgresql+psycopg2", "postgres", "postgresql+psycopg", "postgis")
"""Schemes accepted in `database_url`; the engine uses psycopg2 for all of them."""
IDENTIFIER = r"^[a-z_][a-z0-9_]{0,62}$"


class Settings(BaseModel):
    """Settings of one process. Times are in seconds, sizes in bytes.

    What is not given is taken from the environment. pydantic-settings would do that too, for 2 MB of memory
    in each process of a worker.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,  # a URL has a password
    )

    def __init__(self, **given: Any) -> None:
        names = type(self).model_fields.keys() - given.keys()
        found = {name: os.environ[variable(name)] for name in names if variable(name) in os.environ}
        super().__init__(**found, **given)

    database_url: str = Field(
        "postgresql+psycopg2://postgres@127.0.0.1:5432/workflow_engine",
        description="Postgres, which holds everything that must not be lost",
    )
    database_schema: str = Field("public", pattern=IDENTIFIER, description="schema of the engine's tables")
    database_pool_size: int = Field(
        1,
        ge=1,
        description=(
            "connections each process keeps open, and one more in busy processes of a pool; raise it for "
            "threaded workers and producers"
        ),
    )
    database_timeout: float = Field(5, gt=0, description="seconds to wait for a connection to Postgres")
    database_deadline: float = Field(
        30,
        gt=0,
        description="seconds to wait for a reply from Postgres; then the connection is closed",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="Redis for active executions and locks; also `sentinel://` and `redis+cluster://`",
    )
    lock_urls: tuple[str, ...] = Field(
        (),
        description="comma-separated URLs of three or five independent Redis servers for the locks; "
        "the Redis above when empty",
    )
    redis_timeout: float = Field(5, gt=0, description="seconds to wait for a reply from Redis")
    key_prefix: str = Field("", max_length=64, description="prefix of every Redis key of the engine")
    broker_url: str = Field(
        "", description="Celery's broker; the Redis above when empty, unless that is a cluster"
    )
    tls_ca_file: str = Field(
        "",
        description="PEM file with the authorities that `rediss://` and `amqps://` servers are verified "
        "against; the system's when empty",
    )
    tls_certificate_file: str = Field(
        "", description="PEM file with the client certificate for such servers that ask for one"
    )
    tls_key_file: str = Field(
        "", description="PEM file with that certificate's key, if it is a separate file"
    )
    queue: str = Field("workflow", min_length=1, description="queue of nodes that name none")
    node_priority: int = Field(
        3, ge=0, le=9, description="priority of nodes that name none; 0 is served first"
    )
    lock_expiry: float = Field(
        30,
        ge=0.5,
        description="seconds until the lock of a frozen worker expires; workers renew theirs every second",
    )
    context_expiry: float = Field(
        86_400, ge=60, description="seconds a context stays in Redis while its execution does not move"
    )
    output_limit: int = Field(1_048_576, ge=1024, description="largest output of one node, in bytes of JSON")
    commit_retry_timeout: float = Field(
        300, ge=0, description="seconds a commit is retried while Postgres is away"
    )
    unknown_type_timeout: float = Field(
        600, ge=0, description="seconds a node waits for a worker that knows its type; then it fails"
    )
    claim_lease: float = Field(
        30,
        gt=0,
        description="seconds after which a wait that is over is woken again if its node has not resumed",
    )
    max_recoveries: int = Field(
        3, ge=0, description="how many times a node is run again after its process died; then it fails"
    )
    max_depth: int = Field(
        10, ge=1, le=100, description="levels of child executions below the one that was started"
    )
    max_descendants: int = Field(
        100_000, ge=1, le=10_000_000, description="child executions of one execution, on all levels"
    )
    max_items: int = Field(10_000, ge=1, le=1_000_000, description="items that one loop may go through")
    stall_after: float = Field(
        30,
        gt=0,
        description="seconds without progress after which an execution is rescued if no worker runs it and "
        "its message may be queued for all that the broker shows; else it is rescued after 3 s",
    )
    schedule_grace: float = Field(
        60, ge=60, description="seconds after which a scheduled time that did not fire counts as missed"
    )
    event_retention: float = Field(
        604_800,
        gt=0,
        description="seconds an event that nothing waits for is kept; `purge` removes older ones",
    )
    consumer_stall_timeout: float = Field(
        60,
        ge=0,
        description="seconds after which a worker exits if it has free processes but receives none of the "
        "queued messages; 0: never",
    )
    celery_internals: bool | None = Field(
        None,
        description="whether workers use private parts of Celery and kombu, which makes short nodes faster; "
        "when empty, those of the engine's own app do",
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="form of the log lines of workers and of the command line: `text`, or `json` for one "
        "object per line",
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="port on which a worker serves its metrics to Prometheus; when empty, it counts nothing",
    )
    metrics_address: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address of that port; `0.0.0.0` lets other machines read the metrics",
    )
    pages_read_only: bool | None = Field(
        None,
        description="whether the pages in Flower only show; when empty, they do if Flower has no sign-on "
        "(`--auth`, `--basic-auth`)",
    )
    node_log_limit: int = Field(
        0,
        ge=0,
        le=1_048_576,
        description="bytes of JSON kept of what each attempt of a node logs, in its row of the journal; "
        "0: nothing",
    )
    tracing: bool = Field(
        False,
        description="whether executions are traced with OpenTelemetry, where they start and where they run",
    )
    api_call_allow: tuple[str, ...] = Field(
        (),
        description="comma-separated internal hosts that `action/api-call` may reach: names "
        "(`billing.internal`, `*.internal`), addresses and networks (`10.1.0.0/16`)",
    )
    imports: tuple[str, ...] = Field(
        (), description="comma-separated modules that register node types with @node"
    )

    @field_validator("imports", "lock_urls", "api_call_allow", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("celery_internals", "metrics_port", "pages_read_only", mode="before")
    @classmethod
    def _take_empty_for_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("database_url")
    @classmethod
    def _is_a_postgres_url(cls, value: str) -> str:
        scheme, separator, _ = value.partition("://")
        if not (separator and scheme in POSTGRES_SCHEMES):
            schemes = " or ".join(f"{name}://" for name in POSTGRES_SCHEMES)
            raise ValueError(f"give a URL that begins with {schemes}")
        _ = urlsplit(value).port  # refuses a port that is not a number here, not at the first connection
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, value: str) -> str:
        _redis_address(value, (*REDIS_SCHEMES, *SEVERAL))
        return value

    @field_validator("key_prefix")
    @classmethod
    def _leaves_hash_tags_alone(cls, value: str, info: ValidationInfo) -> str:
        is_cluster = str(info.data.get("redis_url", "")).startswith(CLUSTER_SCHEMES)
        if is_cluster and not {"{", "}"}.isdisjoint(value):
            raise ValueError("leave out { and }: in a Redis Cluster they decide which node has a key")
        return value

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker_url(cls, value: str) -> str:
        if value:
            broker_configuration(value, NO_FILES, "")
        return value

    @field_validator("lock_urls")
    @classmethod
    def _are_independent_servers(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        places = [_redis_address(url, REDIS_SCHEMES).place for url in urls]
        for place in places:
            if places.count(place) > 1:
                raise ValueError(f"{place} is named twice; the databases of one server fail together")
        if urls and (len(urls) < 3 or len(urls) % 2 == 0):
            raise ValueError(f"give an odd number of URLs, three or more, or none; not {len(urls)}")
        return urls

    @field_validator("api_call_allow")
    @classmethod
    def _are_hosts(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        ReachableHosts.parse(entries)
        return entries

    @field_validator("tls_ca_file", "tls_certificate_file", "tls_key_file")
    @classmethod
    def _is_a_file(cls, value: str, info: ValidationInfo) -> str:
        if value and not Path(value).is_file():
            raise ValueError(f"no file {value!r} exists, or this user may not see it")
        if value and info.field_name == "tls_key_file" and not info.data.get("tls_certificate_file"):
            raise ValueError(f"set its certificate too: {ENVIRONMENT_PREFIX}TLS_CERTIFICATE_FILE")
        return value

    @field_validator("database_schema")
    @classmethod
    def _is_not_reserved(cls, value: str) -> str:
        if value.startswith("pg_") or value == "information_schema":
            raise ValueError("Postgres reserves schemas of this name; choose another one")
        return value

    @field_validator("database_url")
    @classmethod
    def _name_the_driver(cls, value: str) -> str:
        # SQLAlchemy reads a bare postgresql:// as psycopg 3; the engine is tested with psycopg2.
        return f"postgresql+psycopg2://{value.partition('://')[2]}"

    @property
    def quoted_schema(self) -> str:
        """The schema in quotes, as statements name it: it may be a keyword of SQL."""
        return f'"{self.database_schema}"'

    @property
    def effective_broker_url(self) -> str:
        return self.broker_url or self.redis_url

    @functools.cached_property
    def api_call_hosts(self) -> ReachableHosts:
        """The internal hosts that every `action/api-call` may reach."""
        return ReachableHosts.parse(self.api_call_allow)

    @property
    def _tls_files(self) -> TlsFiles:
        return TlsFiles(self.tls_ca_file, self.tls_certificate_file, self.tls_key_file)

    @property
    def redis_address(self) -> RedisAddress:
        """The Redis of the contexts."""
        return RedisAddress.parse_several(self.redis_url, self._tls_files)

    @property
    def lock_addresses(self) -> list[RedisAddress]:
        """The Redis servers of the locks; empty if the locks share the Redis of the contexts."""
        return [RedisAddress.parse(url, self._tls_files) for url in self.lock_urls]

    @property
    def broker_address(self) -> RedisAddress | None:
        """The Redis that is the broker; None for other brokers, for Sentinel and for several servers."""
        url = self.effective_broker_url
        is_one_redis = url.partition("://")[0] in REDIS_SCHEMES and ";" not in url
        return RedisAddress.parse(url, self._tls_files) if is_one_redis else None

    def broker_configuration(self) -> dict[str, Any]:
        """Return Celery's settings, by name, for the connection to the broker.

        Raises `SettingsInvalid` if the contexts are on a Redis Cluster and no broker is named beside it.
        """
        if not self.broker_url and self.redis_address.is_cluster:
            raise SettingsInvalid(
                f"{ENVIRONMENT_PREFIX}BROKER_URL: Celery cannot use the Redis Cluster of "
                f"{ENVIRONMENT_PREFIX}REDIS_URL as its broker; name a single Redis, Sentinel or RabbitMQ"
            )
        configuration = broker_configuration(self.effective_broker_url, self._tls_files, self.key_prefix)
        if self.celery_internals is False:
            configuration["broker_transport"] = None  # kombu's own
        return configuration


def _redis_address(url: str, schemes: Sequence[str]) -> RedisAddress:
    """Return the Redis at a URL of these schemes. Raises `ValueError`."""
    if url.partition("://")[0] not in schemes:
        raise ValueError(f"give a URL that begins with {' or '.join(f'{name}://' for name in schemes)}")
    return RedisAddress.parse_several(url)


_of_project: Callable[[], Mapping[str, Any]] = dict


def read_project_settings(of_project: Callable[[], Mapping[str, Any]]) -> None:
    """Take settings from a project, by the names of the fields here; those of the environment go before."""
    global _of_project  # noqa: PLW0603 - settings are those of a process
    _of_project = of_project
    get_settings.cache_clear()


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{ENVIRONMENT_PREFIX}{name.upper()}"


@functools.cache
def get_settings() -> Settings:
    """Return the settings of this process, read at the first call from the environment and the project.

    Raises `SettingsInvalid`, which names every variable that is wrong.
    """
    given = {name: value for name, value in _of_project().items() if variable(name) not in os.environ}
    try:
        return Settings(**given)
    except ValidationError as refusal:
        raise SettingsInvalid("; ".join(_wrong(error, given) for error in refusal.errors())) from None


def _wrong(error: ErrorDetails, of_project: Mapping[str, Any]) -> str:
    name = _spelled("_".join(map(str, error["loc"])), of_project)
    return f"{name}: {error['msg'].removeprefix('Value error, ')}"


def _spelled(name: str, of_project: Mapping[str, Any]) -> str:
    """Return a setting as the place that gives it spells it."""
    return f"WORKFLOW_ENGINE[{name.upper()!r}]" if name in of_project else variable(name)
