"""Are connections encrypted, and is the server the one that it claims to be?

A connection in plain text is a team's own decision. The warning is for one that is encrypted but not
verified, because it looks safer than it is.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from workflow_engine.addresses.redis import RedisAddress
from workflow_engine.health.doctor.finding import Finding, ok, warning

QUESTION = "Is the connection encrypted, and the server verified?"
PLAIN = "no, it is plain text: for a private network only"


def judge_redis_encryption(address: RedisAddress, variable: str) -> Finding:
    """Judge the connection to a Redis; `variable` is the setting that names it."""
    if not address.tls:
        return ok(QUESTION, _plain(address.path or address.host))
    if address.is_verified:
        return ok(QUESTION, "yes")
    return warning(
        QUESTION,
        "it is encrypted, but any server is accepted",
        f"verify it in {variable} (ssl_cert_reqs=required, ssl_check_hostname=true), with its authority in "
        "WORKFLOW_ENGINE_TLS_CA_FILE",
    )


def judge_postgres_encryption(url: str) -> Finding:
    """Judge what libpq does with the URL of a database."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    host = options.get("host") or parts.hostname or ""
    mode = options.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"
    if mode == "verify-full":
        return ok(QUESTION, "yes")
    if mode == "verify-ca":
        return ok(QUESTION, "yes, except for its name: sslmode=verify-ca")
    if mode == "disable" or _is_here(host):
        return ok(QUESTION, _plain(host))
    if mode in ("prefer", "allow"):
        return ok(QUESTION, f"not for certain: sslmode={mode}, for a private network only")
    return warning(
        QUESTION,
        f"it is encrypted, but any server is accepted: sslmode={mode}",
        "add sslmode=verify-full and sslrootcert=FILE to WORKFLOW_ENGINE_DATABASE_URL",
    )


def _plain(host: str) -> str:
    return "no, but it does not leave this machine" if _is_here(host) else PLAIN


def _is_here(host: str) -> bool:
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
