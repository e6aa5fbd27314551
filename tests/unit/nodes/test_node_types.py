"""Functions become node types by being registered, here or by an installed package, under one name each."""

from __future__ import annotations

import importlib.metadata
import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from workflow_engine.errors import ModuleFailed, UnknownNodeType
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes import loading
from workflow_engine.nodes import registry as registry_module
from workflow_engine.nodes.contract import KNOWN_KINDS_OF_LATER_RELEASES, NodeType
from workflow_engine.nodes.loading import load_node_types
from workflow_engine.nodes.registry import FreeConfig, NodeRegistry, RegisteredFunction, node
from workflow_engine.nodes.results import NodeExecutionResult, failure, failure_of, success


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> NodeRegistry:
    """Put an empty registry in place of the one of this process."""
    empty = NodeRegistry()
    monkeypatch.setattr(registry_module, "registry", empty)
    monkeypatch.setattr(loading, "registry", empty)
    return empty


@pytest.fixture
def context() -> ExecutionContext:
    return ExecutionContext("e-1", "shop", "t-1", "placed", "charge", {"placed": {"orderId": 42}})


class Answer:
    """A node executor that is no function."""

    def execute(self, node_id: str, node_data: Any, context: ExecutionContext) -> NodeExecutionResult:
        return success(node_data)


# -- the decorator -----------------------------------------------------------------------------------


def test_a_decorated_function_stays_an_ordinary_function(registry: NodeRegistry) -> None:
    @node("shop.charge")
    def charge(amount: int) -> int:
        return amount * 2

    assert charge(21) == 42
    assert registry.functions == ("shop.charge",)


def test_without_a_name_the_function_is_registered_under_its_own(registry: NodeRegistry) -> None:
    @node
    def charge() -> None: ...

    @node(handles=("yes", "no"))
    def ask() -> None: ...

    assert registry.functions == ("ask", "charge")


def test_a_decorated_function_is_a_node_type_of_its_own(
    registry: NodeRegistry, context: ExecutionContext
) -> None:
    @node("shop.charge", handles=("paid", "refused"))
    def charge(amount: int) -> NodeExecutionResult:
        """Charges a card."""
        return success({"amount": amount}, handle="paid")

    node_type = registry.get("action/shop.charge")

    assert node_type.handles({"amount": 1}) == ("paid", "refused")
    assert node_type.description == "Charges a card."
    assert node_type.executor.execute("n", {"amount": 7}, context) == success({"amount": 7}, handle="paid")


def test_an_async_function_is_refused_where_it_is_decorated(registry: NodeRegistry) -> None:
    with pytest.raises(TypeError, match="charge is async"):

        @node("shop.charge")
        async def charge() -> None: ...

    assert registry.functions == ()


# -- calling a function ------------------------------------------------------------------------------


def test_what_a_function_returns_is_the_output(context: ExecutionContext) -> None:
    def charge(order_id: int) -> dict[str, int]:
        return {"receipt": order_id}

    assert RegisteredFunction("charge", charge).call({"order_id": 42}, context) == success({"receipt": 42})


def test_a_result_that_a_function_returns_is_used_as_it_is(context: ExecutionContext) -> None:
    refused = failure("CARD_REFUSED", "the card was refused")

    assert RegisteredFunction("charge", lambda: refused).call({}, context) is refused


def test_a_function_may_end_its_branch(context: ExecutionContext) -> None:
    ended = success(1, handle=None)

    assert RegisteredFunction("charge", lambda: ended).call({}, context) is ended


def test_a_function_that_asks_for_the_context_gets_it(context: ExecutionContext) -> None:
    def charge(context: ExecutionContext, currency: str) -> list[Any]:
        return [context.trigger_data["orderId"], currency]

    result = RegisteredFunction("charge", charge).call({"currency": "EUR"}, context)

    assert result.output == [42, "EUR"]


def test_an_exception_of_the_function_goes_through(context: ExecutionContext) -> None:
    def charge() -> None:
        raise TypeError("not of the arguments")

    with pytest.raises(TypeError, match="not of the arguments"):
        RegisteredFunction("charge", charge).call({}, context)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "missing a required argument: 'order_id'"),
        ({"order_id": 1, "orderId": 2}, "got an unexpected keyword argument 'orderId'"),
        ({"order_id": 1, "context": {}}, "`context` is given by the engine; leave it out"),
    ],
)
def test_wrong_arguments_fail_the_node_and_show_the_signature(
    arguments: dict[str, Any], said: str, context: ExecutionContext
) -> None:
    def charge(order_id, context, currency="EUR"):  # type: ignore[no-untyped-def]
        raise AssertionError("called with wrong arguments")

    result = RegisteredFunction("shop.charge", charge).execute("n", arguments, context)

    assert result.error is not None
    assert result.error.type == "WRONG_ARGUMENTS"
    assert result.error.message == f"shop.charge(order_id, context, currency='EUR'): {said}"


@pytest.mark.parametrize("arguments", [{"order_id": 1}, {"order_id": 1, "currency": "USD"}])
def test_arguments_that_fit_have_no_problem(arguments: dict[str, Any]) -> None:
    function = RegisteredFunction("charge", lambda order_id, context, currency="EUR": None)

    assert function.check(arguments) is None


def test_the_failure_of_an_exception_has_its_type_message_and_traceback() -> None:
    try:
        raise ValueError("no such card")
    except ValueError as error:
        result = failure_of(error)

    assert result.error is not None
    assert (result.error.type, result.error.message) == ("ValueError", "no such card")
    assert "test_node_types.py" in result.error.details["traceback"]


class Refused(Exception):
    """An error that carries a status and a time to wait, as those of HTTP clients do."""

    def __init__(self, status: Any, retry_after: Any) -> None:
        super().__init__("refused")
        self.status = status
        self.retry_after = retry_after


@pytest.mark.parametrize(
    ("status", "retry_after", "kept"),
    [
        (429, 30, (429, 30.0)),
        (503, 0.5, (503, 0.5)),
        (99, -1, (None, None)),
        (600, math.inf, (None, None)),
        (True, True, (None, None)),
        ("503", "30", (None, None)),
        (None, math.nan, (None, None)),
    ],
)
def test_an_exception_keeps_a_status_and_a_time_to_wait_that_make_sense(
    status: Any, retry_after: Any, kept: tuple[int | None, float | None]
) -> None:
    error = failure_of(Refused(status, retry_after)).error

    assert error is not None
    assert (error.status, error.retry_after) == kept


# -- the registry ------------------------------------------------------------------------------------


def test_what_is_not_registered_is_named_together_with_what_is() -> None:
    registry = NodeRegistry()
    registry.add_function(RegisteredFunction("shop.charge", lambda: None))

    assert registry.find("action/other") is None
    with pytest.raises(
        UnknownNodeType, match=r"'action/other' is not registered here \(known: action/shop.charge"
    ):
        registry.get("action/other")
    with pytest.raises(
        UnknownNodeType, match=r"'shop.refund' \(known: shop.charge\); decorate it with @node"
    ):
        registry.function("shop.refund")


def test_a_later_registration_of_the_same_name_replaces_the_earlier() -> None:
    registry = NodeRegistry()
    for answer in (1, 2):
        registry.add_function(RegisteredFunction("shop.charge", lambda answer=answer: answer))

    assert registry.function("shop.charge").function() == 2
    assert registry.kinds == ("action/shop.charge",)


@pytest.mark.parametrize("function_first", [True, False])
def test_a_function_cannot_take_the_name_of_a_node_type_in_either_order(function_first: bool) -> None:
    registry = NodeRegistry()
    registrations = [
        lambda: registry.add_function(RegisteredFunction("python", lambda: None)),
        lambda: registry.add(NodeType("action", "python", Answer(), FreeConfig)),
    ]
    first, second = registrations if function_first else reversed(registrations)
    first()

    with pytest.raises(ValueError, match="'action/python' is a node type and the name of a function"):
        second()
    assert len(registry.kinds) == 1
    assert len(registry.functions) == int(function_first)


def test_no_node_type_of_this_release_is_listed_as_one_of_a_later_release() -> None:
    assert not set(load_node_types().kinds) & set(KNOWN_KINDS_OF_LATER_RELEASES)


# -- node types of other packages --------------------------------------------------------------------


@pytest.fixture
def shop_package(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write an importable module, as an installed package would bring it."""
    (tmp_path / "shop_nodes.py").write_text(
        "from workflow_engine import FreeConfig, NodeType, node, success\n"
        "class Ship:\n"
        "    def execute(self, node_id, node_data, context):\n"
        "        return success(node_data)\n"
        "SHIP = NodeType('action', 'shop-ship', Ship(), FreeConfig)\n"
        "@node('shop.pack')\n"
        "def pack(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("shop_nodes", None)


def test_node_types_of_installed_packages_are_found_by_their_entry_points(
    registry: NodeRegistry, shop_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = "workflow_engine.nodes"
    installed = importlib.metadata.EntryPoints(
        [importlib.metadata.EntryPoint("ship", "shop_nodes:SHIP", group)]
    )
    monkeypatch.setattr(importlib.metadata, "entry_points", installed.select)

    assert load_node_types() is registry
    assert registry.kinds == ("action/shop-ship", "action/shop.pack")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("shop_nodes:SHOP", "module 'shop_nodes:SHOP' cannot be imported: AttributeError: "),
        ("no_such_module:SHIP", "module 'no_such_module' cannot be imported: ModuleNotFoundError: "),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_refused_by_name(
    shop_package: None, monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    group = "workflow_engine.nodes"
    installed = importlib.metadata.EntryPoints([importlib.metadata.EntryPoint("ship", value, group)])
    monkeypatch.setattr(importlib.metadata, "entry_points", installed.select)

    with pytest.raises(ModuleFailed) as refusal:
        load_node_types()

    assert str(refusal.value).startswith(reason)
    assert "\n" not in str(refusal.value)


def test_modules_that_are_asked_for_are_imported(
    registry: NodeRegistry, shop_package: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **params: [])

    load_node_types(["shop_nodes"])

    assert registry.functions == ("shop.pack",)
