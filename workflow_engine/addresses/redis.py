"""Where a Redis is and how to connect to it, read once from a URL, for redis-py and for kombu alike.

redis-py and kombu read different options from a URL, and each fails for some of them at the first connection.
So a URL is read here, with the settings: an option is either supported by both or refused by name.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

DEFAULT_HOST = "localhost"
DEFAULT_PORTS = {"sentinel": 26379}
DEFAULT_PORT = 6379

SOCKET_SCHEMES = ("unix", "redis+socket")
"""redis-py's and Celery's names for one thing: a socket in the file system."""

SCHEMES = ("redis", "rediss", *SOCKET_SCHEMES)
SENTINEL = "sentinel"
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
"""A Redis Cluster, or a Valkey Cluster, by any of its nodes."""

TLS_SCHEMES = ("rediss", "rediss+cluster")
SEVERAL = (SENTINEL, *CLUSTER_SCHEMES)
"""Schemes of which a list of URLs, separated by semicolons, names one Redis."""


class TlsFiles(NamedTuple):
    """Paths of PEM files for encrypted connections; "" where there is none."""

    ca: str = ""
    """The authorities that the server's certificate is checked against; those of the system if empty."""
    certificate: str = ""
    """The certificate of this client, for a server that requires one."""
    key: str = ""
    """The key of that certificate, if it is not in the same file."""


NO_FILES = TlsFiles()


def _flag(value: str) -> bool:
    if value.lower() not in ("true", "false", "yes", "no", "1", "0"):
        raise ValueError(value)
    return value.lower() in ("true", "yes", "1")


def _verification(value: str) -> str:
    name = value.lower().removeprefix("cert_")
    if name not in ("none", "optional", "required"):
        raise ValueError(value)
    return name


CONNECTION_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "socket_keepalive": _flag,
    "health_check_interval": int,
    "client_name": str,
}
"""Options of a connection, by the names that redis-py and kombu share."""

TLS_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "ssl_cert_reqs": _verification,
    "ssl_check_hostname": _flag,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_ciphers": str,
}

LOGIN_OPTIONS: Mapping[str, Callable[[str], Any]] = {"username": str, "password": str}

DATABASE_OPTIONS: Mapping[str, Callable[[str], Any]] = {"db": int, "virtual_host": int}
"""redis-py's and kombu's names for the number of the database."""

SENTINEL_OPTIONS: Mapping[str, Callable[[str], Any]] = {"master_name": str}

MASTER_NAME_MISSING = "give the sentinels' name of the primary: sentinel://HOST:26379/0?master_name=NAME"


@dataclass(frozen=True)
class RedisAddress:
    """One Redis, and how to connect to it."""

    scheme: str
    """redis, rediss, unix, sentinel, redis+cluster or rediss+cluster"""
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    path: str = ""
    """The path of the socket, for unix."""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    tls: Mapping[str, Any] = field(default_factory=dict)
    """redis-py's `ssl_…` arguments, which verify the server's certificate unless an option says otherwise;
    empty for a connection that is not encrypted."""
    master_name: str = ""
    """The sentinels' name of the primary."""
    also: tuple[tuple[str, int], ...] = ()
    """Hosts and ports of the other sentinels, or of other nodes of the cluster, for when this is away."""

    @classmethod
    def parse_several(cls, urls: str, files: TlsFiles = NO_FILES) -> RedisAddress:
        """Read one URL or, of sentinels and of nodes of a cluster, a list separated by semicolons.

        What the first URL leaves open, such as the password, is taken from the others. Raises `ValueError`.
        """
        if not urls.startswith(tuple(f"{scheme}:" for scheme in SEVERAL)):
            return cls.parse(urls, files)
        addresses = [cls.parse(each.strip(), files) for each in urls.split(";")]
        first = addresses[0]
        if any(
            (each.scheme, each.tls, each.database) != (first.scheme, first.tls, first.database)
            for each in addresses
        ):
            raise ValueError("several nodes need the same scheme, database and TLS options")
        master_name = next((each.master_name for each in addresses if each.master_name), "")
        if first.scheme == SENTINEL and not master_name:
            raise ValueError(MASTER_NAME_MISSING)
        options: dict[str, Any] = {}
        for each in reversed(addresses):
            options |= each.options
        return replace(
            first,
            username=next((each.username for each in addresses if each.username), None),
            password=next((each.password for each in addresses if each.password), None),
            options=options,
            master_name=master_name,
            also=tuple((each.host, each.port) for each in addresses[1:]),
        )

    @classmethod
    def parse(cls, url: str, files: TlsFiles = NO_FILES) -> RedisAddress:
        """Read a URL; `files` are for an encrypted connection whose URL names none itself.

        Raises `ValueError`, which says what is wrong with the URL without repeating a password.
        """
        parts = urlsplit(url)
        scheme = "unix" if parts.scheme in SOCKET_SCHEMES else parts.scheme
        if scheme not in (*SCHEMES, *SEVERAL) or "://" not in url:
            raise ValueError(f"give a URL that begins with {' or '.join(f'{name}://' for name in SCHEMES)}")
        if parts.fragment:
            raise ValueError("write a # of the password as %23, and a ? or / likewise")
        options = _parsed_options(scheme, parts.query)
        is_socket = scheme == "unix"
        if is_socket and (parts.hostname or not parts.path.strip("/")):
            raise ValueError("give the path of the socket after three slashes: unix:///run/redis.sock?db=0")
        database = _database(options, "" if is_socket else parts.path.strip("/"))
        if database and scheme in CLUSTER_SCHEMES:
            raise ValueError("a Redis Cluster has no numbered databases: redis+cluster://HOST:PORT")
        return cls(
            scheme=scheme,
            host=unquote(parts.hostname or DEFAULT_HOST),
            port=parts.port or DEFAULT_PORTS.get(scheme, DEFAULT_PORT),  # raises ValueError
            path=unquote(parts.path) if is_socket else "",
            database=database,
            username=options.get("username") or unquote(parts.username or "") or None,
            password=options.get("password") or unquote(parts.password or "") or None,
            options={name: options[name] for name in CONNECTION_OPTIONS if name in options},
            tls=_tls(options, files) if scheme in TLS_SCHEMES else {},
            master_name=options.get("master_name", ""),
        )

    @property
    def place(self) -> str:
        """Where it is, without user, password and database: `cache.example.com:6379`."""
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def label(self) -> str:
        """The place and the number of the database, for people."""
        if self.is_cluster:
            return self.place
        return f"{self.place}/{self.database}" if not self.path else f"{self.path}?db={self.database}"

    @property
    def is_cluster(self) -> bool:
        return self.scheme in CLUSTER_SCHEMES

    @property
    def nodes(self) -> list[tuple[str, int]]:
        """Host and port of each node or sentinel that the URLs name."""
        return [(self.host, self.port), *self.also]

    @property
    def is_verified(self) -> bool:
        """The connection is encrypted, and the server has to prove its name."""
        verification = self.tls.get("ssl_cert_reqs")
        return verification in ("required", ssl.CERT_REQUIRED) and self.tls.get("ssl_check_hostname", True)

    def is_same_database(self, other: RedisAddress) -> bool:
        """Return whether keys written here are read there, however each is connected to.

        Which server that is may change at any moment behind Sentinel and in a cluster; then it is False.
        """
        is_fixed = self.scheme not in SEVERAL and other.scheme not in SEVERAL
        return is_fixed and (self.place, self.database) == (other.place, other.database)

    def connection_arguments(self) -> dict[str, Any]:
        """Return the arguments of redis-py's connections to this server, including the URL's options.

        `path` and `tls` decide which class of connection they are for. Behind Sentinel and in a cluster they
        leave open where the server is.
        """
        where: dict[str, Any] = {"path": self.path} if self.path else {"host": self.host, "port": self.port}
        if self.scheme in SEVERAL:
            where = {}
        login = {"username": self.username, "password": self.password}
        database = {} if self.is_cluster else {"db": self.database}
        return {**where, **database, **login, **self.options, **self.tls}

    def broker_url(self) -> str:
        """Return kombu's URL of this server, without options: Celery has settings for these."""
        login = quote(self.username or "", safe="")
        if self.password:
            login += f":{quote(self.password, safe='')}"
        at = "@" if login else ""
        if self.path:
            return f"redis+socket://{login}{at}{quote(self.path)}?virtual_host={self.database}"
        return f"{self.scheme}://{login}{at}{self.place}/{self.database}"


def _parsed_options(scheme: str, query: str) -> dict[str, Any]:
    known = {**DATABASE_OPTIONS, **LOGIN_OPTIONS, **CONNECTION_OPTIONS}
    if scheme in TLS_SCHEMES:
        known |= TLS_OPTIONS
    if scheme == SENTINEL:
        known |= SENTINEL_OPTIONS
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in TLS_OPTIONS and name not in known:
            raise ValueError(f"the option {name} is for rediss:// only")
        if name not in known:
            raise ValueError(f"the option {name!r} is not supported; use one of {', '.join(known)}")
        if name in options:
            raise ValueError(f"the option {name} is given twice")
        try:
            options[name] = known[name](value)
        except ValueError:
            raise ValueError(f"the option {name} cannot be {value!r}") from None
    return options


def _database(options: Mapping[str, Any], path: str) -> int:
    """Return the number of the database, which an option or the path may give."""
    number = options.get("db", options.get("virtual_host", path or 0))
    if not str(number).isdecimal():
        raise ValueError(f"the database is a number, not {number!r}: redis://HOST:PORT/0")
    return int(number)


def _tls(options: Mapping[str, Any], files: TlsFiles) -> dict[str, Any]:
    given = {name: options[name] for name in TLS_OPTIONS if name in options}
    tls: dict[str, Any] = {"ssl_cert_reqs": "required"}
    if files.ca and "ssl_ca_path" not in given:
        tls["ssl_ca_certs"] = files.ca
    if files.certificate and "ssl_certfile" not in given:
        tls |= {"ssl_certfile": files.certificate, "ssl_keyfile": files.key or files.certificate}
    tls |= given
    # Python's ssl module refuses to check the name of a server that is not verified.
    tls["ssl_check_hostname"] = tls["ssl_cert_reqs"] != "none" and tls.get("ssl_check_hostname", True)
    return tls
