"""How producers and workers connect to the broker: Celery's settings for it, from the engine's.

Everything that connects to the broker takes its settings from here: producers, workers and checks of the
broker. So all of them verify the same servers with the same certificates.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from workflow_engine.addresses.redis import (
    CLUSTER_SCHEMES,
    MASTER_NAME_MISSING,
    SENTINEL,
    RedisAddress,
    TlsFiles,
)
from workflow_engine.addresses.redis import SCHEMES as REDIS_SCHEMES

KEEPING_TRANSPORT = "workflow_engine.broker.redis_transport:Transport"

AMQP_SCHEMES = ("amqp", "amqps", "pyamqp", "librabbitmq")
AMQP_OPTIONS = ("heartbeat", "login_method", "virtual_host")

OTHER_SCHEMES = (
    "azureservicebus", "azurestoragequeues", "confluentkafka", "consul", "etcd", "filesystem", "gcpubsub",
    "kafka", "memory", "mongodb", "pgmq", "pyro", "qpid", "slmq", "SLMQ", "sqla", "sqlalchemy", "sqs", "SQS",
    "zookeeper",
)  # fmt: skip
"""The other transports of kombu, which the engine is not tested with; kombu reads these URLs itself."""

REDIS_TIMEOUTS = {"socket_timeout": 30, "socket_connect_timeout": 5, "socket_keepalive": True}


def broker_configuration(url: str, files: TlsFiles, key_prefix: str) -> dict[str, Any]:
    """Return Celery's settings, by name, for the connection to the broker at `url`.

    `url` may be several, separated by semicolons. Raises `ValueError` for a URL that kombu could not use;
    kombu itself would fail only at the first connection.
    """
    urls = [each.strip() for each in url.split(";")]
    schemes = {each.partition("://")[0] for each in urls}
    if schemes & set(CLUSTER_SCHEMES):
        raise ValueError(
            "Celery cannot use a Redis Cluster as its broker; "
            "name a single Redis, Sentinel or RabbitMQ, which may stand beside the cluster"
        )
    if schemes <= {*REDIS_SCHEMES, SENTINEL}:
        configuration = _of_redis([RedisAddress.parse(each, files) for each in urls], key_prefix)
    elif schemes <= set(AMQP_SCHEMES):
        configuration = _of_amqp(urls, files)
    elif schemes & set(OTHER_SCHEMES) or any("+" in scheme for scheme in schemes):
        configuration = _celerys_names(url, use_ssl=False, transport=None, options={})
    else:
        raise ValueError(
            f"Celery has no broker of the kind {', '.join(sorted(schemes))}://; "
            "give a URL that begins with redis://, rediss://, unix://, sentinel://, amqp:// or amqps://"
        )
    return configuration


def _of_redis(addresses: Sequence[RedisAddress], key_prefix: str) -> dict[str, Any]:
    first = addresses[0]
    for each in addresses:
        if (each.scheme, each.tls) != (first.scheme, first.tls):
            raise ValueError("several brokers need the same scheme and the same TLS options")
    options = {
        # Postgres keeps the work, so the broker never redelivers a message by itself: with acknowledgement
        # emulation a node longer than the visibility timeout would run again and again.
        "ack_emulation": False,
        "global_keyprefix": key_prefix,
        **REDIS_TIMEOUTS,
    }
    for each in reversed(addresses):
        options |= each.options
    if first.scheme == SENTINEL:
        options["master_name"] = next((each.master_name for each in addresses if each.master_name), "")
        if not options["master_name"]:
            raise ValueError(MASTER_NAME_MISSING)
    return _celerys_names(
        ";".join(each.broker_url() for each in addresses),
        use_ssl=dict(first.tls) or False,
        # Our transport is for one Redis. TLS, sockets, Sentinel and lists of brokers use kombu's own.
        transport=KEEPING_TRANSPORT if first.scheme == "redis" and len(addresses) == 1 else None,
        options=options,
    )


def _of_amqp(urls: Sequence[str], files: TlsFiles) -> dict[str, Any]:
    is_encrypted = {url.startswith("amqps://") for url in urls}
    if len(is_encrypted) > 1:
        raise ValueError("several brokers need the same scheme")
    for url in urls:
        _ = urlsplit(url).port  # raises ValueError
        for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True):
            if name not in AMQP_OPTIONS:
                hint = "; name certificates in WORKFLOW_ENGINE_TLS_…_FILE" if name.startswith("ssl") else ""
                raise ValueError(
                    f"the option {name!r} is not supported; use one of {', '.join(AMQP_OPTIONS)}{hint}"
                )
    use_ssl: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED}
    if len(urls) == 1:
        use_ssl["server_hostname"] = None  # that of the URL; for several, kombu would keep the first one's
    if files.ca:
        use_ssl["ca_certs"] = files.ca
    if files.certificate:
        use_ssl |= {"certfile": files.certificate, "keyfile": files.key or files.certificate}
    return _celerys_names(
        ";".join(urls), use_ssl=use_ssl if True in is_encrypted else False, transport=None, options={}
    )


def _celerys_names(
    url: str, *, use_ssl: dict[str, Any] | bool, transport: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    return {
        "broker_url": url,
        "broker_use_ssl": use_ssl,
        "broker_transport": transport,
        "broker_transport_options": options,
    }
