"""The settings of a project: its `WORKFLOW_ENGINE`, the database among `DATABASES`, and its Celery app.

    WORKFLOW_ENGINE = {"REDIS_URL": "redis://cache:6379/1", "LOCK_EXPIRY": 20}

The names are those of the engine's settings in upper case, and a few that only Django has. Where nothing is
set, the engine goes along with what the project's Celery app has: its broker, if that is a Redis, also keeps
the contexts, and its default queue takes the nodes. So the project's workers need no other options.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
from collections.abc import Mapping
from json import JSONEncoder
from typing import Any
from urllib.parse import quote, urlencode

import django
from django.apps import apps
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.module_loading import import_string, module_has_submodule

from workflow_engine.broker.celery_app import load_app, redis_of_broker
from workflow_engine.errors import SettingsInvalid
from workflow_engine.settings import Settings, variable

APP = "workflow_engine.django"
SETTING = "WORKFLOW_ENGINE"
OF_DJANGO = {
    "DATABASE": "alias of the database in DATABASES that has the engine's tables",
    "CELERY_APP": "the project's Celery app, named as for `celery -A`",
    "DEPLOY_AFTER_MIGRATE": "whether `manage.py migrate` deploys the definitions of the installed apps",
    "ENCODER": "class of a JSON encoder for data that JSON does not know, such as Django's DjangoJSONEncoder",
}
"""What only a Django project can set."""
OF_DATABASES = ("DATABASE_URL",)
"""Settings of the engine that follow from `DATABASES`."""

NOT_OF_LIBPQ = frozenset(
    {
        "assume_role",
        "client_encoding",
        "connect_timeout",
        "connection_factory",
        "context",
        "cursor_factory",
        "isolation_level",
        "pool",
        "prepare_threshold",
        "server_side_binding",
    }
)
"""Options of a database that are for Django or its driver, or that the engine sets in its own way."""
PLAIN_HOST = re.compile(r"[A-Za-z0-9._-]+")


def set_up_django() -> None:
    """Set Django up if its settings have been read and the engine is among its apps, as a worker would."""
    if settings.configured and not apps.ready and APP in settings.INSTALLED_APPS:
        django.setup()


def given() -> Mapping[str, Any]:
    """Return `settings.WORKFLOW_ENGINE`. Raises `SettingsInvalid` for names that are unknown."""
    values = getattr(settings, SETTING, {})
    if not isinstance(values, Mapping):
        raise SettingsInvalid(f"{SETTING} is a {type(values).__name__}; make it a dict, {{'REDIS_URL': '…'}}")
    known = [*(name.upper() for name in Settings.model_fields), *OF_DJANGO]
    wrong = []
    for name in values:
        if name in OF_DATABASES:
            wrong.append(
                f"{SETTING}[{name!r}]: the tables are in a database of DATABASES; name its alias in "
                f"{SETTING}['DATABASE']"
            )
        elif name not in known:
            close = difflib.get_close_matches(str(name).upper(), known, 1)
            advice = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}"
            wrong.append(f"{SETTING}[{name!r}]: there is no such setting{advice}")
    if wrong:
        raise SettingsInvalid("; ".join(wrong))
    return values


def database_alias() -> str:
    """Return the alias of the database with the engine's tables. Raises `SettingsInvalid`."""
    alias = str(given().get("DATABASE", DEFAULT_DB_ALIAS))
    if alias not in connections:
        raise SettingsInvalid(
            f"{SETTING}['DATABASE']: DATABASES has no {alias!r}; it has {', '.join(map(repr, connections))}"
        )
    if (vendor := connections[alias].vendor) != "postgresql":
        raise SettingsInvalid(
            f"DATABASES[{alias!r}] is {vendor}, and the engine needs Postgres; name the alias of one in "
            f"{SETTING}['DATABASE']"
        )
    return alias


def schema() -> str:
    """Return the schema of the engine's tables."""
    name = variable("database_schema")
    default = given().get("DATABASE_SCHEMA", Settings.model_fields["database_schema"].default)
    return os.environ.get(name) or str(default)


def encoder() -> JSONEncoder | None:
    """Return the encoder that the project has named, None if it has not. Raises `SettingsInvalid`."""
    name = given().get("ENCODER")
    if name is None:
        return None
    try:
        found = import_string(name) if isinstance(name, str) else name
        made = found()
    except (ImportError, TypeError) as error:
        raise SettingsInvalid(f"{SETTING}['ENCODER']: {error}") from error
    if not isinstance(made, JSONEncoder):
        raise SettingsInvalid(f"{SETTING}['ENCODER']: {name} is not a json.JSONEncoder")
    return made


def engine_settings() -> dict[str, Any]:
    """Return the engine's settings that the project gives, by their names there. Raises `SettingsInvalid`."""
    values = {name.lower(): value for name, value in given().items() if name not in OF_DJANGO}
    if url := os.environ.get(variable("database_url")):
        scheme = url.partition("://")[0]
        raise SettingsInvalid(
            f"{variable('database_url')} ({scheme}://…) is set as well as DATABASES; remove it, for the "
            f"engine uses the database that {SETTING}['DATABASE'] names, 'default' if it names none"
        )
    values["database_url"] = database_url(connections[database_alias()].settings_dict)
    values["imports"] = tuple(dict.fromkeys((*_listed(values.get("imports", ())), *node_modules())))
    app = celery_app()
    if app is not None:
        if (url := redis_of_broker(app)) is not None:
            values.setdefault("redis_url", url)
        values.setdefault("queue", app.conf.task_default_queue)
    return values


def _listed(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value)


def node_modules() -> list[str]:
    """Return the modules `nodes` of the installed apps."""
    return [
        f"{each.name}.nodes"
        for each in apps.get_app_configs()
        if each.module is not None and module_has_submodule(each.module, "nodes")
    ]


def database_url(database: Mapping[str, Any]) -> str:
    """Return the URL of a database of `DATABASES`, for connections of the engine's own."""
    options = {
        name: value
        for name, value in (database.get("OPTIONS") or {}).items()
        if name not in NOT_OF_LIBPQ and isinstance(value, str | int | float)
    }
    if role := (database.get("OPTIONS") or {}).get("assume_role"):
        options["options"] = f"{options.get('options', '')} -c role={role}".strip()
    host, port = (str(database.get(name) or "") for name in ("HOST", "PORT"))
    if PLAIN_HOST.fullmatch(host):
        place = f"{host}:{port}" if port else host
    else:  # the folder of a socket, or several hosts
        place = ""
        options |= {name: value for name, value in (("host", host), ("port", port)) if value}
    user, password = (quote(str(database.get(name) or ""), safe="") for name in ("USER", "PASSWORD"))
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    query = f"?{urlencode(options, quote_via=quote)}" if options else ""
    return f"postgresql+psycopg2://{login}{place}/{quote(str(database.get('NAME') or ''), safe='')}{query}"


@functools.cache
def _loaded(name: str) -> Any:
    return load_app(name)


def celery_app() -> Any:
    """Return the project's Celery app; None if it has none. Raises `AppUnusable`.

    It is the one that `WORKFLOW_ENGINE["CELERY_APP"]` names, or else that of the module `celery` beside the
    project's settings, where Celery's guide for Django has it.
    """
    name = app_name()
    return None if name is None else _loaded(name)


def app_name() -> str | None:
    """Return the name of the project's Celery app, as for `celery -A`; None if it has none."""
    named = given().get("CELERY_APP")
    return _conventional_app() if named is None else str(named)


def _conventional_app() -> str | None:
    for named_by in ("SETTINGS_MODULE", "ROOT_URLCONF", "WSGI_APPLICATION", "ASGI_APPLICATION"):
        package = str(getattr(settings, named_by, None) or "")
        while package := package.rpartition(".")[0]:
            if _exists(f"{package}.celery"):
                return f"{package}.celery"
    return None


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
