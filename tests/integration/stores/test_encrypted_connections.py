"""Every connection to `rediss://` verifies the server and shows the certificate that the settings name."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import kombu.exceptions
import psycopg2
import pytest
import redis
import trustme
from celery import Celery

from support.polling import poll
from support.relays import TlsRelay
from workflow_engine import Settings, WorkflowClient
from workflow_engine.broker.dispatcher import producer_app
from workflow_engine.broker.inspection import ask_workers, connect_to_broker
from workflow_engine.definition.text import read_definition
from workflow_engine.errors import (
    BackingServiceUnavailable,
    BrokerUnavailable,
    CacheUnavailable,
    DatabaseUnavailable,
)
from workflow_engine.health.doctor import Severity, examine
from workflow_engine.health.readiness import ask_servers
from workflow_engine.postgres import migrations
from workflow_engine.postgres.database import PooledDatabase
from workflow_engine.redis.client import connect_redis
from workflow_engine.redis.lock_servers import connect_lock_servers
from workflow_engine.settings import ENVIRONMENT_PREFIX
from workflow_engine.worker.steps.consumption_watch import WaitingMessages

TWO_NODES = """
id: greeting
nodes:
  - {id: named, type: trigger, subType: manual}
  - {id: greet, type: action, subType: function, config: {expression: "hello {{ named.name }}"}}
  - {id: shout, type: action, subType: function, config: {expression: "{{ greet | upper }}"}}
edges:
  - {source: named, target: greet}
  - {source: greet, target: shout}
"""

Connect = Callable[[Settings], object]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return settings that name the authority and a certificate of this client."""
    folder = tmp_path_factory.mktemp("certificates")
    certificate = authority.issue_cert("shop@example.com")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    return {f"tls_{name}_file": str(folder / f"{name}.pem") for name in ("ca", "certificate", "key")}


@pytest.fixture
def encrypted(authority: trustme.CA, redis_url: str) -> Iterator[Callable[..., TlsRelay]]:
    """Return a factory of TLS relays to Redis; with `asks=True` a relay requires a client certificate."""
    with ExitStack() as relays:

        def relay(name: str = "127.0.0.1", *, asks: bool = False) -> TlsRelay:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert(name).configure_cert(context)
            if asks:
                authority.configure_trust(context)
                context.verify_mode = ssl.CERT_REQUIRED
            return relays.enter_context(TlsRelay(redis_url, context))

        yield relay


def url_through(relay: TlsRelay, url: str) -> str:
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return f"rediss://{login}@127.0.0.1:{relay.port}{parts.path}"


def contexts(settings: Settings) -> object:
    with connect_redis(settings) as client:
        return client.ping()


def locks(settings: Settings) -> object:
    several = settings.model_copy(update={"lock_urls": (settings.redis_url,) * 3, "lock_expiry": 600})
    return connect_lock_servers(redis.Redis(), several).acquire("lock:execution:1", b"me")


def producers(settings: Settings) -> object:
    with producer_app(settings).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.1)
        return connection.default_channel.client.ping()


def workers(settings: Settings) -> object:
    app = Celery("workers", set_as_current=False)
    app.conf.update(settings.broker_configuration())
    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.1)
        return connection.default_channel.client.ping()


def consumption_watch(settings: Settings) -> object:
    app = producer_app(settings)
    with connect_redis(settings) as client:
        client.lpush("workflow", "a message that waits")
        client.expire("workflow", 60)
    if WaitingMessages(app).among(["workflow"]) != ["workflow"]:
        raise BackingServiceUnavailable("it does not see the message")
    return True


def broker_probe(settings: Settings) -> object:
    connect_to_broker(settings, 5)
    return True


def question_to_workers(settings: Settings) -> object:
    return ask_workers(settings, 0.1)


def readiness(settings: Settings) -> object:
    return answer_of("Redis", settings)


def readiness_of_the_broker(settings: Settings) -> object:
    beside = {"broker_url": settings.redis_url, "redis_url": "redis://127.0.0.1:1/0"}
    return answer_of("Broker", settings.model_copy(update=beside))


def doctor(settings: Settings) -> object:
    found = next(group for topic, group in examine(settings).items() if topic.startswith("Redis at"))
    if found[0].severity is Severity.PROBLEM:
        raise CacheUnavailable(found[0].answer)
    return True


def answer_of(server: str, settings: Settings) -> str:
    """Return a probe's result for the server; raise the error that makes it unfit."""
    answer = next(answer for name, answer in ask_servers(settings, 5) if name.startswith(server))
    if isinstance(answer, Exception):
        raise answer
    return answer


WAYS = [
    contexts,
    locks,
    producers,
    workers,
    consumption_watch,
    broker_probe,
    question_to_workers,
    readiness,
    readiness_of_the_broker,
    doctor,
]

REFUSALS = (BackingServiceUnavailable, redis.ConnectionError, kombu.exceptions.OperationalError)


@pytest.mark.parametrize("connect", WAYS)
def test_a_trusted_server_is_used_and_shown_the_certificate_that_it_asks_for(
    connect: Connect, encrypted: Callable[..., TlsRelay], files: dict[str, str], redis_url: str
) -> None:
    relay = encrypted(asks=True)

    connect(Settings(redis_url=url_through(relay, redis_url), **files))

    assert relay.welcomed > 0
    assert relay.refusals == []


@pytest.mark.parametrize("connect", WAYS)
def test_a_server_of_an_authority_that_is_not_trusted_is_refused(
    connect: Connect, encrypted: Callable[..., TlsRelay], redis_url: str
) -> None:
    relay = encrypted()

    with pytest.raises(REFUSALS):
        connect(Settings(redis_url=url_through(relay, redis_url)))

    poll(lambda: relay.refusals, "the relay has met the refusal")
    assert relay.welcomed == 0


@pytest.mark.parametrize("connect", [contexts, producers])
def test_a_server_of_another_name_is_refused(
    connect: Connect, encrypted: Callable[..., TlsRelay], files: dict[str, str], redis_url: str
) -> None:
    url = url_through(encrypted("elsewhere.example.com"), redis_url)

    with pytest.raises(REFUSALS, match="certificate is not valid"):
        connect(Settings(redis_url=url, **files))


@pytest.mark.parametrize("connect", [contexts, producers])
def test_a_server_is_not_verified_only_where_its_url_says_so(
    connect: Connect, encrypted: Callable[..., TlsRelay], redis_url: str
) -> None:
    url = url_through(encrypted("elsewhere.example.com"), redis_url)

    assert connect(Settings(redis_url=f"{url}?ssl_cert_reqs=none"))


@pytest.mark.parametrize("name", ["127.0.0.1", "elsewhere.example.com"])
def test_rabbitmq_is_verified_too(
    name: str, encrypted: Callable[..., TlsRelay], files: dict[str, str]
) -> None:
    relay = encrypted(name, asks=True)

    with pytest.raises(BrokerUnavailable) as refusal:  # what answers there is no RabbitMQ
        connect_to_broker(Settings(broker_url=f"amqps://guest@127.0.0.1:{relay.port}//", **files), 0.5)

    is_verified = "CERTIFICATE_VERIFY_FAILED" not in str(refusal.value)
    assert is_verified == (name == "127.0.0.1")
    assert (relay.welcomed > 0) == is_verified


def test_postgres_is_verified_as_its_url_says(
    authority: trustme.CA, files: dict[str, str], database_url: str
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with TlsRelay(database_url, context) as relay:
        port = str(urlsplit(database_url).port)
        url = f"{database_url.replace(port, str(relay.port))}?sslmode=verify-full"
        trusting = Settings(database_url=f"{url}&sslrootcert={files['tls_ca_file']}")
        distrusting = Settings(database_url=f"{url}&sslrootcert={files['tls_certificate_file']}")

        migrations.upgrade(trusting.database_url)
        assert backend(trusting) > 0
        assert answer_of("Postgres", trusting).startswith("writable")
        assert not relay.refusals
        relay.welcomed = 0
        with pytest.raises(DatabaseUnavailable, match="certificate verify failed"):
            backend(distrusting)
        with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
            answer_of("Postgres", distrusting)
        assert relay.welcomed == 0


def test_an_execution_runs_to_its_end_over_encrypted_connections(
    encrypted: Callable[..., TlsRelay], files: dict[str, str], settings: Settings
) -> None:
    relay = encrypted(asks=True)
    changes = {"redis_url": url_through(relay, settings.redis_url), **files}
    settings = settings.model_copy(update=changes)
    client = WorkflowClient(settings)
    client.deploy(read_definition(TWO_NODES))
    started = client.start("greeting", {"name": "Ada"})
    environment = {f"{ENVIRONMENT_PREFIX}{name.upper()}": value for name, value in changes.items()}
    environment |= {f"{ENVIRONMENT_PREFIX}DATABASE_URL": settings.database_url}
    command = [sys.executable, "-m", "celery", "-A", "workflow_engine.worker", "worker", "-c", "1"]

    worker = subprocess.Popen([*command, "-l", "WARNING"], env={**os.environ, **environment})
    try:
        ended = client.wait(started.id, timeout=60)
        reports = ask_workers(settings, 2)
    finally:
        worker.terminate()
        worker.wait(30)

    assert ended.result == "HELLO ADA"
    assert [report.settings["broker_use_ssl"]["ssl_cert_reqs"] for report in reports] == ["required"]
    assert relay.refusals == []


def backend(settings: Settings) -> int:
    database = PooledDatabase(settings)
    try:
        return int(database.rows("SELECT pg_backend_pid()")[0][0])
    finally:
        database.dispose()
