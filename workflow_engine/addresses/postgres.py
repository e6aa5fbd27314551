"""Where Postgres is: the URL of the settings, as libpq reads it."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlencode, urlsplit


def libpq_url(url: str) -> str:
    """Return SQLAlchemy's URL as libpq reads it: several hosts, `?host=a:5432&host=b:5432`, become lists."""
    # libpq takes a + for itself, not for a space.
    parts = urlsplit(url.replace("+psycopg2", "", 1))
    query = parse_qsl(parts.query)
    hosts = [value for name, value in query if name == "host"]
    if len(hosts) > 1:
        query = [(name, value) for name, value in query if name not in ("host", "port")]
        query.append(("host", ",".join(host.partition(":")[0] for host in hosts)))
        query.append(("port", ",".join(host.partition(":")[2] or "5432" for host in hosts)))
    return parts._replace(query=urlencode(query, quote_via=quote)).geturl()
