"""A request reaches the public network only, in every spelling of an address and after every rebinding."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from support.http_server import HttpServer, Reply
from support.node_runs import error_of
from support.node_runs import run as run_prepared
from workflow_engine.addresses.reachable import ReachableHosts
from workflow_engine.errors import ExpressionError
from workflow_engine.execution.context import ExecutionContext
from workflow_engine.nodes.action.api_call import NODE_TYPE, ApiCall
from workflow_engine.nodes.action.http import exchange, sockets
from workflow_engine.nodes.results import NodeExecutionResult


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that are dialled; each refuses the connection."""
    dialled: list[str] = []

    def dial(family: int, target: Any, *_: Any) -> socket.socket:
        dialled.append(target[0])
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(sockets, "_dial", dial)
    monkeypatch.setattr(exchange, "_current", None)
    return dialled


def call(url: str, allow: tuple[str, ...] = (), **config: Any) -> NodeExecutionResult:
    context = ExecutionContext("e-1", "shop", "t-1", "placed", "n", {})
    return ApiCall(ReachableHosts.parse(allow)).execute("n", {"url": url, **config}, context)


HOSTILE = {
    "this machine": "http://127.0.0.1:6379/",
    "this machine, elsewhere in its network": "http://127.8.9.1/",
    "this machine by name": "http://localhost/",
    "this machine by name, with a dot": "http://localhost./",
    "this machine in IPv6": "http://[::1]/",
    "this machine in IPv6, written long": "http://[0:0:0:0:0:0:0:1]/",
    "no address": "http://0.0.0.0/",
    "no address in IPv6": "http://[::]/",
    "a decimal number": "http://2130706433/",
    "a hexadecimal number": "http://0x7f000001/",
    "an octal number": "http://017700000001/",
    "octal parts": "http://0177.0.0.01/",
    "hexadecimal parts": "http://0x7f.0x0.0x0.0x1/",
    "two parts": "http://127.1/",
    "one part": "http://0/",
    "digits of another script": "http://①②⑦.⓪.⓪.①/",
    "full-width letters": "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54/",
    "a private network of class A": "http://10.0.0.5/",
    "a private network of class B": "http://172.31.255.1/",
    "a private network of class C": "http://192.168.1.1/",
    "the network of a provider": "http://100.64.0.1/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata, as a number": "http://2852039166/",
    "metadata of ECS": "http://169.254.170.2/",
    "metadata of Alibaba": "http://100.100.100.200/",
    "metadata of Azure, among the public addresses": "http://168.63.129.16/",
    "metadata in IPv6": "http://[fd00:ec2::254]/",
    "link-local": "http://169.254.1.1/",
    "link-local in IPv6": "http://[fe80::1]/",
    "unique local": "http://[fd12:3456::1]/",
    "site-local": "http://[fec0::1]/",
    "mapped": "http://[::ffff:127.0.0.1]/",
    "mapped, in hexadecimal": "http://[::ffff:a9fe:a9fe]/",
    "compatible": "http://[::127.0.0.1]/",
    "translated by NAT64": "http://[64:ff9b::127.0.0.1]/",
    "translated by a NAT64 of one's own": "http://[64:ff9b:1::a9fe:a9fe]/",
    "6to4": "http://[2002:7f00:1::]/",
    "Teredo": "http://[2001:0:a9fe:a9fe::1]/",
    "documentation": "http://[2001:db8::1]/",
    "multicast": "http://224.0.0.1/",
    "multicast in IPv6": "http://[ff02::1]/",
    "broadcast": "http://255.255.255.255/",
    "benchmarks": "http://198.18.0.1/",
    "reserved": "http://240.0.0.1/",
}


@pytest.mark.parametrize("title", HOSTILE)
def test_an_internal_address_is_refused_in_every_spelling(dialled: list[str], title: str) -> None:
    error = error_of(call(HOSTILE[title]))

    assert error.type in ("ADDRESS_REFUSED", "INVALID_REQUEST", "NAME_NOT_FOUND"), error.message
    assert dialled == []


NO_URLS = [
    "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "//example.com/", "example.com",
    "http://", "http:///path", "http://user:password@example.com/", "http://example.com@127.0.0.1/",
    "http://exa mple.com/", "http://93.184.216.34:99999/", "http://example.com:0/", "http://[::1/", "",
    "http://a\r\nHost: b/", "http://" + "a" * 300 + ".com/", "javascript:alert(1)", "http://%31%32%37.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_of_http_is_refused(dialled: list[str], url: str) -> None:
    error = error_of(call(url))

    assert error.type in ("INVALID_REQUEST", "NAME_NOT_FOUND"), error.message
    assert dialled == []
    assert "password" not in error.message.replace("user or password", "")


@pytest.mark.parametrize(
    "url", ["http://93.184.216.34/", "http://[2606:2800:220:1::1]/", "http://[64:ff9b::8.8.8.8]/"]
)
def test_public_addresses_are_dialled(dialled: list[str], url: str) -> None:
    assert error_of(call(url)).type == "CONNECTION_FAILED"
    assert len(dialled) == 1


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("http://127.0.0.1/", True),
        ("http://10.1.2.3/", True),
        ("http://[fd12::1]/", True),
        ("http://[::ffff:10.1.2.3]/", True),
        ("http://169.254.169.254/", False),
        ("http://100.100.100.200/", False),
        ("http://168.63.129.16/", False),
        ("http://[fd00:ec2::254]/", False),
        ("http://[::ffff:169.254.169.254]/", False),
        ("http://[fe80::1]/", False),
        ("http://0.0.0.0/", False),
    ],
)
def test_a_node_may_allow_itself_private_addresses_but_no_metadata(
    dialled: list[str], url: str, is_allowed: bool
) -> None:
    error = error_of(call(url, allowPrivate=True))

    assert error.type == ("CONNECTION_FAILED" if is_allowed else "ADDRESS_REFUSED")
    assert bool(dialled) is is_allowed


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Return what names mean: the addresses of each, at the first question, the second and so on."""
    names: dict[str, list[list[str]]] = {}

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host not in names:
            raise socket.gaierror(-2, "Name or service not known")
        replies = names[host]
        addresses = replies.pop(0) if len(replies) > 1 else replies[0]
        families = [(socket.AF_INET6 if ":" in each else socket.AF_INET, each) for each in addresses]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in families]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("billing.internal", True),
        ("BILLING.internal.", True),
        ("a.b.svc.local", True),
        ("svc.local", False),
        ("evilsvc.local", False),
        ("billing.internal.evil.com", False),
        ("in-the-network", True),
        ("beside-the-network", False),
        ("metadata", True),
    ],
)
def test_an_operator_allows_names_addresses_and_networks(
    dialled: list[str], names: dict[str, list[list[str]]], host: str, is_allowed: bool
) -> None:
    names |= {name: [["10.0.0.1"]] for name in (host, host.lower(), host.lower().rstrip("."))}
    names |= {"in-the-network": [["10.7.1.2"]], "metadata": [["169.254.169.254"]]}
    allow = ("Billing.Internal", "*.svc.local", "10.7.0.0/16", "169.254.169.254")

    error = error_of(call(f"http://{host}/", allow))

    assert error.type == ("CONNECTION_FAILED" if is_allowed else "ADDRESS_REFUSED"), error.message
    assert bool(dialled) is is_allowed


@pytest.mark.parametrize(
    "entry", ["http://billing", "billing:80", "10.0.0.0/8/8", "10.0.0.1/8", "*", "a b", "127.1"]
)
def test_what_is_no_host_cannot_be_allowed(entry: str) -> None:
    with pytest.raises(ValueError, match=r"write `billing\.internal`, `\*\.internal` or `10\.1\.0\.0/16`"):
        ReachableHosts.parse([entry])


def test_a_name_that_means_another_address_a_moment_later_is_asked_once(
    dialled: list[str], names: dict[str, list[list[str]]]
) -> None:
    names["rebinding.example"] = [["93.184.216.34"], ["127.0.0.1"]]

    assert error_of(call("http://rebinding.example/")).type == "CONNECTION_FAILED"
    assert dialled == ["93.184.216.34"]
    assert error_of(call("http://rebinding.example/")).type == "ADDRESS_REFUSED"
    assert dialled == ["93.184.216.34"]


def test_of_several_addresses_only_public_ones_are_dialled(
    dialled: list[str], names: dict[str, list[list[str]]]
) -> None:
    names["mixed.example"] = [["127.0.0.1", "93.184.216.34", "::1", "2606:2800:220:1::1"]]

    call("http://mixed.example/")

    assert dialled == ["93.184.216.34", "2606:2800:220:1::1"]


def test_a_refusal_names_the_address_and_what_to_do(
    dialled: list[str], names: dict[str, list[list[str]]]
) -> None:
    names["billing.internal"] = [["10.0.0.1"]]

    assert error_of(call("http://billing.internal/")).message == (
        "'billing.internal' is 10.0.0.1, a private address; for a private address set `allowPrivate: true`, "
        "or list it in WORKFLOW_ENGINE_API_CALL_ALLOW of the workers"
    )


# -- redirects, and connections that are open --------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpServer]:
    monkeypatch.setattr(exchange, "_current", None)
    with HttpServer() as server:
        yield server


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://2852039166/",
        "//169.254.169.254/",
    ],
)
def test_a_redirect_to_a_metadata_address_is_refused(server: HttpServer, location: str) -> None:
    server.answer = lambda received: Reply(302, headers={"Location": location})

    error = error_of(call(server.url(), allowPrivate=True, followRedirects=5))

    assert error.type == "ADDRESS_REFUSED"
    assert len(server.received) == 1


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://a:b@127.0.0.1/", "//a:b@127.0.0.1/"])
def test_a_redirect_to_what_is_no_url_of_http_is_refused(server: HttpServer, location: str) -> None:
    server.answer = lambda received: Reply(302, headers={"Location": location})

    assert error_of(call(server.url(), allowPrivate=True, followRedirects=5)).type == "INVALID_REQUEST"


def test_a_connection_of_a_node_that_may_reach_private_addresses_is_out_of_reach_of_others(
    server: HttpServer,
) -> None:
    assert call(server.url(), allowPrivate=True).kind == "success"
    assert error_of(call(server.url())).type == "ADDRESS_REFUSED"
    assert call(server.url(), ("127.0.0.0/8",)).kind == "success"


# -- headers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rb", "a\x00b", "a\x7fb", "a\x0bb"])
def test_data_cannot_add_a_header_or_a_request(server: HttpServer, value: str) -> None:
    config = {"url": server.url(), "allowPrivate": True, "headers": {"X-Id": "{{ placed.id }}"}}

    error = error_of(run_prepared(NODE_TYPE, config, {"placed": {"id": value}}))

    assert error.type == "INVALID_REQUEST"
    assert error.message.startswith("headers: x-id: the value has a line break or another control character")
    assert server.received == []


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "Connection", "a b", "a:b", "", "ä"]
)
def test_a_header_that_would_change_the_connection_is_refused(server: HttpServer, name: str) -> None:
    config = {"url": server.url(), "allowPrivate": True, "headers": "{{ placed.headers }}"}

    error = error_of(run_prepared(NODE_TYPE, config, {"placed": {"headers": {name: "x"}}}))

    assert error.type == "INVALID_REQUEST"
    assert server.received == []


@pytest.mark.parametrize("value", ["", ".", "..", None, [1], {"a": 1}])
def test_a_value_that_would_lead_to_another_path_is_refused(server: HttpServer, value: Any) -> None:
    config = {"url": server.url("/orders/{{ placed.id }}/cancel"), "allowPrivate": True}

    with pytest.raises(ExpressionError, match=r"a part of a (path|URL)"):
        run_prepared(NODE_TYPE, config, {"placed": {"id": value}})


@pytest.mark.parametrize("value", ["evil.com/", "evil.com#", "evil.com?", "a@evil.com", "a\\b", "a b", ""])
def test_a_value_in_a_host_cannot_lead_beyond_it(server: HttpServer, value: str) -> None:
    with pytest.raises(ExpressionError, match="cannot be a part of a host name"):
        run_prepared(
            NODE_TYPE, {"url": "https://api.{{ placed.id }}.example.com/"}, {"placed": {"id": value}}
        )
