"""Which addresses a request may reach: public ones, and those that its node or the operator names.

The lists are our own and not those of `ipaddress`, which differ from one release of Python to the next. An
IPv6 address that carries an IPv4 address is judged by that one, since a translator on the way delivers it
there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


_METADATA = _networks(
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "192.0.0.192", "168.63.129.16",
    "fd00:ec2::/32", "fd20:ce::/32",
)  # fmt: skip
"""Where clouds give their machines credentials; one of them is within the public addresses."""

_PRIVATE = _networks(
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7", "::1",
)  # fmt: skip
"""What a node may reach with `allowPrivate`: private networks, those of providers, and this machine."""

_NEVER = _networks(
    "0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
    "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)  # fmt: skip
"""Link-local, multicast and reserved addresses, and those of tunnels: Teredo and 6to4."""

_LABEL = re.compile(r"[a-z0-9_][a-z0-9_-]{0,62}")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def _carried(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address leads to, or the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


@dataclass(frozen=True)
class ReachableHosts:
    """The internal hosts that an operator allows for every request."""

    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    """The parts after the `*` of names such as `*.internal`."""
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> ReachableHosts:
        """Read names (`billing.internal`, `*.internal`), addresses and networks. Raises ValueError."""
        names: set[str] = set()
        suffixes: list[str] = []
        networks: list[Network] = []
        for entry in entries:
            try:
                networks.append(ip_network(entry.strip("[]")))
                continue
            except ValueError:
                pass
            name = entry.lower().rstrip(".")
            plain = name.removeprefix("*.")
            if not all(map(_is_label, parts := plain.split("."))) or parts[-1][0].isdigit():
                raise ValueError(
                    f"{entry!r:.80} is no host name, address or network; write `billing.internal`, "
                    "`*.internal` or `10.1.0.0/16`, without scheme and port"
                )
            if name == plain:
                names.add(name)
            else:
                suffixes.append(name[1:])
        return cls(frozenset(names), tuple(suffixes), tuple(networks))

    def has_name(self, host: str) -> bool:
        """Return whether the operator vouches for all addresses of this name."""
        name = host.lower().rstrip(".")
        return name in self.names or name.endswith(self.suffixes or ("\n",))

    def refusal(self, address: Address, allow_private: bool) -> str | None:
        """Return what kind of address this is if it may not be reached; None if it may."""
        target = _carried(address)
        if _is_in(address, self.networks) or _is_in(target, self.networks):
            return None
        if _is_in(target, _METADATA):
            return "the metadata service of a cloud"
        if _is_in(target, _PRIVATE):
            return None if allow_private else "a private address"
        is_public = isinstance(target, IPv4Address) or target in _GLOBAL_UNICAST
        if not is_public or _is_in(target, _NEVER):
            return "a reserved address"
        return None


def _is_label(part: str) -> bool:
    """Return whether this is one part of a host name."""
    return _LABEL.fullmatch(part) is not None


def address_of(text: str) -> Address:
    """Return an address as `getaddrinfo` gives it, without the name of its interface."""
    return ip_address(text.partition("%")[0])
