"""A copy of a node's exception leaves its process: small, without secrets and without the engine's frames."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from workflow_engine.errors import (
    DefinitionInvalid,
    ExpressionError,
    IdempotencyConflict,
    NodeFailed,
    Problem,
    WorkflowEngineError,
)
from workflow_engine.nodes.raised import LARGEST_COPY, Raised, traceback_text
from workflow_engine.nodes.registry import RegisteredFunction
from workflow_engine.nodes.results import NodeError, failure_of

SECRET = "s3cr3t"


class Coded(Exception):
    """Takes other arguments than it passes on."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")


class Broken(Exception):
    def __reduce__(self) -> Any:
        raise KeyboardInterrupt if self.args == ("order",) else GeneratorExit


class Carrying(Exception):
    payload: bytes = b""


def caught(work: Callable[..., Any], *arguments: Any) -> BaseException:
    try:
        work(*arguments)
    except BaseException as error:  # noqa: BLE001 - that is what is tested
        return error
    raise AssertionError("nothing was raised")


def masked(text: str) -> str:
    return text.replace(SECRET, "***")


def copy_of(error: BaseException, message: str | None = None) -> BaseException | None:
    return Raised(error, masked(str(error)) if message is None else message, masked).copy()


def raise_(error: BaseException) -> None:
    raise error


def test_a_copy_has_the_type_the_text_and_the_frames_of_the_exception() -> None:
    error = caught(lambda: 1 / 0)

    copy = copy_of(error)

    assert type(copy) is ZeroDivisionError
    assert copy is not error
    assert traceback.format_exception(copy) == traceback.format_exception(error)


def test_a_copy_keeps_what_led_to_the_exception() -> None:
    def translate() -> None:
        try:
            raise KeyError("sku")
        except KeyError as error:
            raise ValueError("no such article") from error

    copy = copy_of(caught(translate))

    assert repr(copy) == "ValueError('no such article')"
    assert copy is not None
    assert repr(copy.__cause__) == "KeyError('sku')"


def test_a_secret_is_neither_in_the_copy_nor_in_what_led_to_it() -> None:
    def leak() -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError("no such key") from error

    for error, shown in (
        (caught(raise_, ValueError(f"401 for {SECRET}")), "401 for ***"),
        (caught(leak), None),
    ):
        copy = copy_of(error)
        assert type(copy) is ValueError
        assert shown in (None, str(copy))
        assert SECRET not in "".join(traceback.format_exception(copy))


def test_what_cannot_be_rebuilt_has_no_copy() -> None:
    class Local(Exception):
        pass

    for error in (Coded(402, "card expired"), Local("here"), Broken(), KeyError(f"a {SECRET}")):
        assert copy_of(caught(raise_, error)) is None


def test_an_order_to_stop_while_an_exception_is_copied_is_obeyed() -> None:
    with pytest.raises(KeyboardInterrupt):
        copy_of(Broken("order"))


def test_a_copy_is_small() -> None:
    carrying = Carrying("too much")
    carrying.payload = b"x" * LARGEST_COPY
    wordy = ValueError("x" * 8_000_000)

    copy, shortened = copy_of(carrying), copy_of(wordy, "x… left out …x")

    assert (repr(copy), getattr(copy, "payload", None)) == ("Carrying('too much')", b"")
    assert repr(shortened) == "ValueError('x… left out …x')"


def test_a_copy_has_the_innermost_frames_of_a_deep_traceback() -> None:
    def recurse(depth: int) -> None:
        if depth == 0:
            raise ValueError("deep")
        recurse(depth - 1)

    copy = copy_of(caught(recurse, 500))

    assert copy is not None
    frames = traceback.extract_tb(copy.__traceback__)
    assert len(frames) == 100
    assert frames[-1].line == 'raise ValueError("deep")'


def met_by_the_engine(work: Callable[..., Any], *arguments: Any) -> BaseException:
    """Return an exception as the engine catches it: without a frame of these tests before it."""
    error = caught(work, *arguments)
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


def test_a_traceback_begins_where_the_engine_called_the_node() -> None:
    def charge() -> None:
        raise ValueError("declined")

    error = met_by_the_engine(RegisteredFunction("charge", charge).call, {}, None)

    assert [line.split(", in ")[-1] for line in traceback_text(error).splitlines()[:2]] == [
        "Traceback (most recent call last):",
        "charge",
    ]
    assert copy_of(error) is not None
    assert [frame.name for frame in traceback.extract_tb(Raised(error).traceback())] == ["charge"]


def test_an_exception_of_the_engine_itself_keeps_its_frames() -> None:
    error = met_by_the_engine(RegisteredFunction("charge", print).call, None, None)

    assert ", in call" in traceback_text(error)


def test_an_exception_that_cannot_be_printed_still_has_a_traceback() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    assert "Unprintable" in traceback_text(caught(raise_, Unprintable()))


def test_the_errors_of_the_engine_can_be_pickled() -> None:
    errors: list[WorkflowEngineError] = [
        NodeFailed("Declined", "card expired"),
        ExpressionError("{{ a.b }}", "a is undefined"),
        DefinitionInvalid([Problem("nodes[0]", "no id")], "shop"),
        IdempotencyConflict("shop", "key", "execution"),
    ]
    for error in errors:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_the_failure_of_an_exception_keeps_it() -> None:
    error = ValueError("declined")
    failed = failure_of(error).error
    assert failed is not None
    assert failed.raised is not None
    assert failed.raised.error is error
    assert failed == NodeError("ValueError", "declined", failed.details, failed.classes)
