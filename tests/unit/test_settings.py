"""Settings come from the environment, are checked at once, and all of them are in the README."""

from functools import partial

import pytest
from kombu.transport import TRANSPORT_ALIASES
from pydantic import ValidationError

from support.repository import ROOT
from workflow_engine import WorkflowClient
from workflow_engine.addresses.broker import AMQP_SCHEMES, OTHER_SCHEMES
from workflow_engine.addresses.redis import SCHEMES as REDIS_SCHEMES
from workflow_engine.addresses.redis import SENTINEL
from workflow_engine.errors import SettingsInvalid
from workflow_engine.postgres import migrations
from workflow_engine.settings import ENVIRONMENT_PREFIX, Settings, get_settings

README = ROOT / "README.md"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_readme_lists_every_setting_with_its_meaning(name: str) -> None:
    field = Settings.model_fields[name]
    default = "" if field.default in ("", (), None) else f"`{field.default}`"

    row = f"| `{ENVIRONMENT_PREFIX}{name.upper()}` | {default} | {field.description} |"

    assert row in README.read_text()


def test_a_setting_is_read_from_its_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_LOCK_EXPIRY", "2.5")
    monkeypatch.setenv("WORKFLOW_ENGINE_IMPORTS", "shop.nodes, billing.nodes,")
    monkeypatch.setenv("WORKFLOW_ENGINE_LOCK_URLS", "redis://a,redis://b:6380, unix:///run/redis.sock")

    settings = Settings()

    assert settings.lock_expiry == 2.5
    assert settings.imports == ("shop.nodes", "billing.nodes")
    assert settings.lock_urls == ("redis://a", "redis://b:6380", "unix:///run/redis.sock")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db/flows",
        "postgres://db/flows",
        "postgresql+psycopg2://db/flows",
        "postgresql+psycopg://db/flows",
        "postgis://db/flows",
    ],
)
def test_every_usual_form_of_a_postgres_url_means_the_driver_that_is_tested(url: str) -> None:
    assert Settings(database_url=url).database_url == "postgresql+psycopg2://db/flows"


def test_the_broker_is_the_redis_of_the_engine_unless_another_is_named() -> None:
    assert Settings(redis_url="redis://cache/3").effective_broker_url == "redis://cache/3"
    assert Settings(broker_url="amqp://rabbit//").effective_broker_url == "amqp://rabbit//"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("database_url", "mysql://db/flows", "postgresql://"),
        ("database_url", "db:5432", "postgresql://"),
        ("redis_url", "localhost", "redis://"),
        ("redis_url", "redis://localhost:port/0", "Port could not be cast"),
        ("redis_url", "redis://cache/orders", "the database is a number, not 'orders'"),
        ("redis_url", "redis://cache/0?decode_responses=true", "'decode_responses' is not supported"),
        (
            "redis_url",
            "redis://cache/0?max_connections=5",
            "'max_connections' is not supported; use one of db,",
        ),
        ("redis_url", "redis://cache/0?db=1&db=2", "db is given twice"),
        ("redis_url", "redis://cache/0?socket_timeout=soon", "socket_timeout cannot be 'soon'"),
        ("redis_url", "redis://cache/0?ssl_cert_reqs=none", "is for rediss:// only"),
        ("redis_url", "rediss://cache/0?ssl_cert_reqs=never", "ssl_cert_reqs cannot be 'never'"),
        ("redis_url", "redis://:pass#word@cache/0", "%23"),
        ("redis_url", "unix://redis.sock", "three slashes"),
        ("redis_url", "amqp://cache//", "redis://"),
        ("redis_url", "sentinel://cache:26379/0", "master_name"),
        ("redis_url", "redis+cluster://cache/1", "no numbered databases"),
        ("redis_url", "redis+cluster://one;rediss+cluster://two", "the same scheme"),
        ("broker_url", "redis+cluster://cache:6379", "Celery cannot use a Redis Cluster as its broker"),
        ("lock_urls", "redis+cluster://a,redis://b,redis://c", "redis://"),
        ("broker_url", "rabbit://broker//", "Celery has no broker of the kind rabbit://"),
        ("broker_url", "redis://broker/0?retry_on_timeout=1", "'retry_on_timeout' is not supported"),
        ("broker_url", "redis://one/0;rediss://two/0", "the same scheme"),
        ("broker_url", "rediss://one/0;rediss://two/0?ssl_cert_reqs=none", "the same TLS options"),
        ("broker_url", "sentinel://one:26379/0", "master_name"),
        ("broker_url", "amqp://broker//?ssl_ca_certs=/ca.pem", "WORKFLOW_ENGINE_TLS_"),
        ("broker_url", "amqps://one//;amqp://two//", "the same scheme"),
        ("broker_url", "amqp://broker:port//", "Port could not be cast"),
        ("lock_urls", "redis://a,redis://b?nonsense=1,redis://c", "'nonsense' is not supported"),
        ("tls_ca_file", "/nowhere/ca.pem", "no file '/nowhere/ca.pem'"),
        ("tls_key_file", __file__, "WORKFLOW_ENGINE_TLS_CERTIFICATE_FILE"),
        ("lock_urls", "redis://a,localhost,redis://c", "redis://"),
        ("lock_urls", "redis://a:port,redis://b,redis://c", "Port could not be cast"),
        ("lock_urls", "redis://a", "give an odd number of URLs, three or more, or none; not 1"),
        (
            "lock_urls",
            "redis://a,redis://b,redis://c,redis://d",
            "give an odd number of URLs, three or more, or none; not 4",
        ),
        ("lock_urls", "redis://a/0,redis://b/0,redis://user@a:6379/1", "a:6379 is named twice"),
        ("database_schema", "Robert'); DROP", "pattern"),
        ("lock_expiry", 0, "greater than or equal to 0.5"),
        ("node_priority", 10, "less than or equal to 9"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_do(name: str, value: object, advice: str) -> None:
    with pytest.raises(ValidationError, match=name) as refusal:
        Settings(**{name: value})

    assert advice in str(refusal.value)


def test_a_wrong_variable_is_named_and_its_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKFLOW_ENGINE_REDIS_URL", "redis://:hunter2@cache/0?nonsense=1")
    monkeypatch.setenv("WORKFLOW_ENGINE_LOCK_EXPIRY", "0")
    get_settings.cache_clear()

    with pytest.raises(SettingsInvalid) as refusal:
        get_settings()
    with pytest.raises(ValidationError) as at_first_hand:
        Settings()

    assert "WORKFLOW_ENGINE_REDIS_URL: the option 'nonsense' is not supported" in str(refusal.value)
    assert "WORKFLOW_ENGINE_LOCK_EXPIRY: " in str(refusal.value)
    assert "hunter2" not in str(refusal.value) + str(at_first_hand.value)


def test_every_broker_that_kombu_knows_is_accepted() -> None:
    known = {*AMQP_SCHEMES, *OTHER_SCHEMES, *REDIS_SCHEMES, SENTINEL} - {"unix", "redis+socket"}

    # Each release of kombu knows a few more.
    assert known >= set(TRANSPORT_ALIASES)
    assert known - set(TRANSPORT_ALIASES) <= {"pgmq"}


@pytest.mark.parametrize(
    ("url", "broker_url"),
    [
        ("redis://cache", "redis://cache:6379/0"),
        ("redis://me:p%40ss@cache:6380/3", "redis://me:p%40ss@cache:6380/3"),
        ("redis://cache?db=3&username=me&password=p%40ss", "redis://me:p%40ss@cache:6379/3"),
        ("redis://[::1]:6380/1", "redis://[::1]:6380/1"),
        (
            "unix:///run/redis.sock?db=3&password=p%40ss",
            "redis+socket://:p%40ss@/run/redis.sock?virtual_host=3",
        ),
        ("redis://one/1;redis://two/2?client_name=shop", "redis://one:6379/1;redis://two:6379/2"),
        (
            "sentinel://one/1?master_name=main;sentinel://two/1",
            "sentinel://one:26379/1;sentinel://two:26379/1",
        ),
        ("amqp://guest@rabbit//?heartbeat=30", "amqp://guest@rabbit//?heartbeat=30"),
        ("sqs://", "sqs://"),
        ("sqla+sqlite:///broker.db", "sqla+sqlite:///broker.db"),
    ],
)
def test_celery_is_given_a_url_that_kombu_reads(url: str, broker_url: str) -> None:
    assert Settings(broker_url=url).broker_configuration()["broker_url"] == broker_url


def test_a_cluster_is_named_by_several_nodes_and_needs_a_broker_beside_it() -> None:
    settings = Settings(redis_url="redis+cluster://one;redis+cluster://me:secret@two:6380?client_name=shop")

    address = settings.redis_address
    assert address.nodes == [("one", 6379), ("two", 6380)]
    assert (address.username, address.password, address.options) == ("me", "secret", {"client_name": "shop"})
    assert settings.broker_address is None
    with pytest.raises(SettingsInvalid, match=r"WORKFLOW_ENGINE_BROKER_URL: .* name a single Redis"):
        settings.broker_configuration()
    with pytest.raises(ValidationError, match=r"leave out \{ and \}"):
        Settings(redis_url="redis+cluster://one", key_prefix="{team-a}:")
    assert Settings(key_prefix="{team-a}:").key_prefix == "{team-a}:"


def test_sentinels_of_the_contexts_lead_to_the_broker_too_unless_another_is_named() -> None:
    settings = Settings(redis_url="sentinel://:secret@one/2?master_name=main;sentinel://two:26380/2")

    address = settings.redis_address
    assert (address.nodes, address.master_name) == ([("one", 26379), ("two", 26380)], "main")
    assert address.connection_arguments() == {"db": 2, "username": None, "password": "secret"}
    assert settings.broker_configuration()["broker_url"] == (
        "sentinel://:secret@one:26379/2;sentinel://two:26380/2"
    )


def test_options_of_a_url_become_options_of_celerys_transport() -> None:
    url = "sentinel://one/1?socket_timeout=9;sentinel://two/1?master_name=main"

    options = Settings(broker_url=url, key_prefix="shop:").broker_configuration()["broker_transport_options"]

    assert options == {
        "ack_emulation": False,
        "global_keyprefix": "shop:",
        "socket_timeout": 9.0,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "master_name": "main",
    }


def test_an_option_that_libpq_does_not_know_is_named_at_the_first_use() -> None:
    url = "postgresql://shop:hunter2@127.0.0.1:1/shop?sslmod=require"

    settings = Settings(database_url=url)

    for use in (WorkflowClient(settings).list, partial(migrations.upgrade, settings.database_url)):
        with pytest.raises(SettingsInvalid, match=r"WORKFLOW_ENGINE_DATABASE_URL: .*sslmod") as refusal:
            use()
        assert "hunter2" not in str(refusal.value)
