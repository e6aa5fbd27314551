"""What a node leaves behind, as it can be stored: without secrets, readable to Postgres, of bounded size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from workflow_engine.definition.graph import Graph
from workflow_engine.errors import (
    ExpressionError,
    InvalidValue,
)
from workflow_engine.execution.bounded_texts import LONGEST_LABEL, readable_part, shorten, shorten_details
from workflow_engine.expressions.secrets import Secrets
from workflow_engine.json_values import check_size, encode, normalise, storable_text
from workflow_engine.nodes.children import Children
from workflow_engine.nodes.raised import Raised
from workflow_engine.nodes.results import (
    NodeError,
    Wait,
)
from workflow_engine.paths import at


def stored_part(secrets: Secrets, limit: int, produced: Any, place: int) -> tuple[Any, bytes]:
    """Return what a part has returned as it is stored. Raises `InvalidValue`."""
    path = at("output", place)
    value = secrets.mask_data(normalise(produced, path), path)
    encoded = encode(value)
    check_size(encoded, limit, path)
    return value, encoded


def checked_variables(given: Mapping[str, Any], graph: Graph, secrets: Secrets, limit: int) -> dict[str, Any]:
    """Return the variables that a node has set, as they are stored. Raises `InvalidValue`."""
    variables: dict[str, Any] = secrets.mask_data(normalise(dict(given), "variables"), "variables")
    for name in variables:
        if name.startswith("_") or name in graph.nodes:
            raise InvalidValue(
                f"variables.{name}", "a variable may not start with _ nor have the name of a node; rename it"
            )
    check_size(encode(variables), limit, "variables")
    return variables


def check_children(children: Children, input_data: bytes | None, secrets: Secrets, limit: int) -> None:
    """Raise `InvalidValue` for data of children that is too large or contains a secret.

    The items of a loop are read from the stored input, so that has to hold them as they are.
    """
    given = {"data": children.data, "variables": dict(children.variables), "previous": children.previous}
    normal = normalise(given, "children")
    check_size(encode(normal), limit, "data")
    items = normalise(list(children.items or ()), "items")
    if secrets.mask_texts(normal) != normal or secrets.mask_texts(items) != items:
        raise InvalidValue(
            "data", "a secret is in it, and children store their data; let them read the secret themselves"
        )
    if children.items is not None and (input_data is None or input_data.startswith(b'{"_omitted"')):
        raise InvalidValue(
            "items",
            f"with the rest of the config they are larger than {limit} bytes; pass references instead",
        )


def check_wait(wait: Wait, secrets: Secrets) -> None:
    """Raise `InvalidValue` for a secret in a text that matches events with waits."""
    required = () if isinstance(wait.required, str) else wait.required
    texts = {"correlation_id": wait.correlation_id or ""}
    texts |= {at("events", index): name for index, name in enumerate(wait.events)}
    texts |= {at("required", index): name for index, name in enumerate(required)}
    for path, text in texts.items():
        secrets.check_absence(text, path)


def error_of_refusal(refusal: ExpressionError | InvalidValue, secrets: Secrets) -> NodeError:
    """Return the error for a refusal by the engine, without its traceback, which shows only the engine."""
    refusal.__cause__ = refusal.__context__ = refusal.__traceback__ = None
    return storable_error(NodeError(type(refusal).__name__, str(refusal), raised=Raised(refusal)), secrets)


def storable_error(error: NodeError, secrets: Secrets) -> NodeError:
    """Return the error without secrets or text that Postgres cannot hold.

    Raises `InvalidValue` for its details.
    """
    masked = bounded(
        dataclasses.replace(
            error,
            type=secrets.mask_text(storable_text(readable_part(str(error.type)))),
            message=secrets.mask_text(storable_text(readable_part(str(error.message)))),
            details=secrets.mask_texts(normalise(dict(error.details), "error details")),
        )
    )
    raised = error.raised and Raised(error.raised.error, masked.message, secrets.mask_text)
    return dataclasses.replace(masked, raised=raised)


def bounded(error: NodeError) -> NodeError:
    """Return the error in a size that can be stored.

    Secrets must be masked before: parts of them would show.
    """
    return dataclasses.replace(
        error,
        type=error.type[:LONGEST_LABEL],
        message=shorten(error.message),
        details=shorten_details(error.details),
    )


def stored_text(secrets: Secrets, text: str, limit: int) -> str:
    """Return a text that a node has logged as it can be stored, without secrets."""
    return shorten(secrets.mask_text(storable_text(readable_part(text))), limit)
