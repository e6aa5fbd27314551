"""Every knob of the engine: its default, its unit and its environment variable (`WORKFLOW_ENGINE_…`).

Settings are read once per process. Names of environment variables are the field names in upper case
behind the prefix: `WORKFLOW_ENGINE_DATABASE_URL`, `WORKFLOW_ENGINE_LOCK_EXPIRY` and so on.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

ENVIRONMENT_PREFIX = "WORKFLOW_ENGINE_"
URL_SCHEMES = {
    "database_url": ("postgresql", "postgresql+psycopg2", "postgres"),
    "redis_url": ("redis", "rediss", "unix"),
    "lock_urls": ("redis", "rediss", "unix"),
}
KEEPING_TRANSPORT = "workflow_engine.redis_transport:Transport"
IDENTIFIER = r"^[a-z_][a-z0-9_]{0,62}$"


class Settings(BaseSettings):
    """Settings of one process. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True)

    database_url: str = Field(
        "postgresql+psycopg2://postgres@127.0.0.1:5432/workflow_engine",
        description="Postgres, which holds everything that must not be lost",
    )
    database_schema: str = Field("public", pattern=IDENTIFIER, description="schema of the engine's tables")
    database_pool_size: int = Field(
        1, ge=1, description="connections a process keeps open; raise it for threaded workers and producers"
    )
    database_timeout: float = Field(5, gt=0, description="seconds to wait for a connection to Postgres")
    database_deadline: float = Field(
        30,
        gt=0,
        description="seconds to wait for an answer of Postgres; then the connection is given up",
    )
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis for active executions and locks")
    lock_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="comma-separated URLs of three or five independent Redis servers for the locks; "
        "the Redis above when empty",
    )
    redis_timeout: float = Field(5, gt=0, description="seconds to wait for an answer of Redis")
    key_prefix: str = Field("", max_length=64, description="stands before every Redis key of the engine")
    broker_url: str = Field("", description="Celery's broker; the Redis above when empty")
    queue: str = Field("workflow", min_length=1, description="queue of nodes that name none")
    node_priority: int = Field(
        3, ge=0, le=9, description="priority of nodes that name none; 0 is served first"
    )
    lock_expiry: float = Field(
        30, ge=0.5, description="seconds a lock lasts unless renewed, every third of it"
    )
    context_expiry: float = Field(
        86_400, ge=60, description="seconds a context stays in Redis without a move"
    )
    output_limit: int = Field(1_048_576, ge=1024, description="bytes of JSON one node may put out")
    commit_patience: float = Field(
        300, ge=0, description="seconds a commit is repeated while Postgres is away"
    )
    unknown_type_patience: float = Field(
        600, ge=0, description="seconds a node of a type unknown here waits for a newer worker, then it fails"
    )
    claim_lease: float = Field(
        30,
        gt=0,
        description="seconds after which a wait that is over, but whose node did not go on, is woken again",
    )
    max_recoveries: int = Field(
        3, ge=0, description="how often a node is run again after its process died; then it fails"
    )
    stall_after: float = Field(
        30,
        gt=0,
        description="seconds without a move after which an execution that nobody runs, and whose message is "
        "not in the queue, is brought back",
    )
    schedule_grace: float = Field(
        60, ge=60, description="seconds after which a scheduled time that was not fired counts as missed"
    )
    event_retention: float = Field(
        604_800,
        gt=0,
        description="seconds an event that nothing waits for is kept; `purge` removes older ones",
    )
    consumption_patience: float = Field(
        60,
        ge=0,
        description="seconds after which a worker that has free processes and receives none of the messages "
        "that wait ends itself; 0: never",
    )
    imports: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="comma-separated modules that register node types with @node"
    )

    @field_validator("imports", "lock_urls", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("database_url", "redis_url", "broker_url")
    @classmethod
    def _is_a_url(cls, value: str, info: ValidationInfo) -> str:
        schemes = URL_SCHEMES.get(info.field_name or "", ())
        scheme, separator, _ = value.partition("://")
        if schemes and not (separator and scheme in schemes):
            raise ValueError(f"give a URL that begins with {' or '.join(f'{name}://' for name in schemes)}")
        for url in value.split(";") if info.field_name == "broker_url" else [value]:  # Celery takes several
            _ = urlsplit(url).port  # a port that is no number is told here, not at the first connection
        return value

    @field_validator("lock_urls")
    @classmethod
    def _are_independent_servers(cls, urls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for url in urls:
            cls._is_a_url(url, info)
        places = [redis_place(url) for url in urls]
        for place in places:
            if places.count(place) > 1:
                raise ValueError(f"{place} is named twice; the databases of one server are lost together")
        if urls and (len(urls) < 3 or len(urls) % 2 == 0):
            raise ValueError(f"give three, five or more URLs, an odd number, not {len(urls)}; or none")
        return urls

    @field_validator("database_url")
    @classmethod
    def _name_the_driver(cls, value: str) -> str:
        # SQLAlchemy reads a bare postgresql:// as psycopg 3; the engine is tested with psycopg2.
        scheme, separator, rest = value.partition("://")
        return (
            f"postgresql+psycopg2://{rest}" if separator and scheme in ("postgres", "postgresql") else value
        )

    @property
    def effective_broker_url(self) -> str:
        return self.broker_url or self.redis_url

    def context_key(self, execution_id: str) -> str:
        return f"{self.key_prefix}execution:context:{execution_id}"

    def lock_key(self, execution_id: str) -> str:
        return f"{self.key_prefix}lock:execution:{execution_id}"

    def knock_key(self, execution_id: str) -> str:
        """Says that somebody has met the lock held; whoever unlocks looks for what they came for."""
        return f"{self.key_prefix}lock:knock:{execution_id}"

    @property
    def memory_key(self) -> str:
        """Since when Redis has forgotten nothing."""
        return f"{self.key_prefix}turn:memory"

    def turn_key(self, work: str) -> str:
        return f"{self.key_prefix}turn:{work}"

    def finished_channel(self, execution_id: str) -> str:
        """The pub/sub channel on which the end of an execution is told; not a key, so it holds nothing."""
        return f"{self.key_prefix}execution:finished:{execution_id}"


def redis_place(url: str) -> str:
    """Where a Redis is, without who connects to it and to which database: `cache.example.com:6379`."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}" if parts.hostname else parts.path


def redis_database(url: str) -> tuple[str, int] | None:
    """Which database of which Redis a `redis://` or `rediss://` URL means; None for any other URL.

    None as well if there are options, which may name another database.
    """
    parts = urlsplit(url)
    number = parts.path.strip("/") or "0"
    if parts.scheme not in ("redis", "rediss") or ";" in url or parts.query or not number.isdigit():
        return None
    return redis_place(url), int(number)


@functools.cache
def get_settings() -> Settings:
    """The settings of this process, read from the environment at the first call."""
    return Settings()


def broker_transport(settings: Settings) -> str | None:
    """The transport that producers and workers use, as `broker_transport` names it; None is kombu's own.

    Ours is for one Redis. TLS, Sentinel and lists of brokers stay with kombu's own.
    """
    url = settings.effective_broker_url
    return KEEPING_TRANSPORT if url.startswith("redis://") and ";" not in url else None


def broker_transport_options(settings: Settings) -> dict[str, Any]:
    """Options of kombu's Redis transport that producers and workers must share.

    Postgres is what remembers work, so the broker never delivers a message again by itself: with
    acknowledgement emulation a node longer than the visibility timeout would run again and again.
    """
    if not settings.effective_broker_url.startswith(("redis", "rediss", "sentinel")):
        return {}
    return {
        "ack_emulation": False,
        "global_keyprefix": settings.key_prefix,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    }
