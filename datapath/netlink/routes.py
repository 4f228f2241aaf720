"""Routes and neighbours, on the node and in pods. The node's carry our protocol number."""

import errno
from typing import Final, NamedTuple

from datapath.netlink import rtnl
from datapath.netlink.attachment import ROUTE_PROTOCOL
from datapath.netlink.errors import KernelRefused
from datapath.netlink.families import bits_of, family_of
from datapath.netlink.messages import ndmsg, rtmsg
from datapath.netlink.rtnl import Message, Request, Rtnl

_MAIN: Final = 254  # RT_TABLE_MAIN
_BOOT: Final = 3  # RTPROT_BOOT: what `ip route` gives; a pod's routes are the pod's own
_SCOPE_LINK: Final = 253
_UNICAST: Final = 1
_LOCAL: Final = 2
_UNREACHABLE: Final = 7
_SCOPE_HOST: Final = 254
_LARGE: Final = 252  # RT_TABLE_COMPAT: the number stands in an attribute
_PERMANENT: Final = 0x80  # NUD_PERMANENT
_LAST_RESORT: Final = 0x7FFFFFFF  # metric of the route that any other route to a pod comes before
_NOWHERE: Final = 255  # RT_SCOPE_NOWHERE: in a deletion, any scope


class Route(NamedTuple):
    """A route of the main table: destination prefix as text, gateway (empty: none), interface (0: none)."""

    destination: str
    gateway: str
    ifindex: int


def to_pod(address: str, index: int, name: str, source: str) -> Request:
    """The node reaches the pod through the link, with `source` as its own address; replaces what was there."""
    attrs = [("RTA_DST", address), ("RTA_OIF", index), ("RTA_PREFSRC", source)]
    message = _route(family_of(address), bits_of(address), attrs, scope=_SCOPE_LINK, protocol=ROUTE_PROTOCOL)
    return Request(f"route {address} to {name}", rtnl.NEW_ROUTE, rtnl.PUT, message)


def neighbour(address: str, index: int, name: str, mac: str) -> Request:
    """The node knows the pod's MAC for good; replaces what was there."""
    message = ndmsg()
    message["family"], message["ifindex"], message["state"] = family_of(address), index, _PERMANENT
    message["attrs"] = [("NDA_DST", address), ("NDA_LLADDR", mac)]
    return Request(f"set the neighbour {address} on {name}", rtnl.NEW_NEIGHBOUR, rtnl.PUT, message)


def to_gateway(gateway: str, index: int, name: str) -> Request:
    """The pod finds its gateway on the link itself, though no prefix of its own contains it."""
    attrs = [("RTA_DST", gateway), ("RTA_OIF", index)]
    message = _route(family_of(gateway), bits_of(gateway), attrs, scope=_SCOPE_LINK, protocol=_BOOT)
    return Request(f"route {gateway} to {name}", rtnl.NEW_ROUTE, rtnl.CREATE, message)


def default(gateway: str, index: int) -> Request:
    """Everything of the gateway's family goes to the gateway."""
    message = _through(gateway, index)
    return Request(f"route everything through {gateway}", rtnl.NEW_ROUTE, rtnl.CREATE, message)


def aside(gateway: str, index: int, name: str, table: int) -> tuple[Request, Request]:
    """By this table, which has a number of its own, everything of the gateway's family goes to it on this link."""
    family = family_of(gateway)
    by_link: list[tuple[str, object]] = [("RTA_TABLE", table), ("RTA_DST", gateway), ("RTA_OIF", index)]
    beyond: list[tuple[str, object]] = [("RTA_TABLE", table), ("RTA_GATEWAY", gateway), ("RTA_OIF", index)]
    near = _route(family, bits_of(gateway), by_link, scope=_SCOPE_LINK, protocol=ROUTE_PROTOCOL)
    far = _route(family, 0, beyond, scope=0, protocol=ROUTE_PROTOCOL)
    near["table"] = far["table"] = _LARGE
    what = f"by table {table} to {name}"
    return (
        Request(f"route {gateway} {what}", rtnl.NEW_ROUTE, rtnl.CREATE, near),
        Request(f"route everything {what}", rtnl.NEW_ROUTE, rtnl.CREATE, far),
    )


def not_default(gateway: str, index: int) -> Request:
    """It does not any more."""
    message = _through(gateway, index)
    return Request(f"route nothing else through {gateway}", rtnl.DELETE_ROUTE, rtnl.SET, message)


def nowhere(prefix: str) -> Request:
    """What is in the prefix and has no better route is unreachable, and not sent to the node's own gateway."""
    network, _, length = prefix.partition("/")
    attrs = [("RTA_DST", network), ("RTA_PRIORITY", _LAST_RESORT)]
    message = _route(family_of(network), int(length), attrs, scope=0, protocol=ROUTE_PROTOCOL, kind=_UNREACHABLE)
    return Request(f"make the rest of {prefix} unreachable", rtnl.NEW_ROUTE, rtnl.PUT, message)


def to_ourselves(family: int, table: int, loopback: int) -> Request:
    """By this table, which has a number of its own, everything of the family is for the node itself."""
    attrs: list[tuple[str, object]] = [("RTA_TABLE", table), ("RTA_OIF", loopback)]
    message = _route(family, 0, attrs, scope=_SCOPE_HOST, protocol=ROUTE_PROTOCOL, kind=_LOCAL)
    message["table"] = _LARGE
    return Request(f"route everything of table {table} to the node", rtnl.NEW_ROUTE, rtnl.PUT, message)


def from_ourselves(family: int, table: int) -> Request:
    """It is not any more."""
    message = _route(family, 0, [("RTA_TABLE", table)], scope=_NOWHERE, protocol=ROUTE_PROTOCOL, kind=_LOCAL)
    message["table"] = _LARGE
    return Request(f"delete the route of table {table}", rtnl.DELETE_ROUTE, rtnl.SET, message)


def listed(kernel: Rtnl, family: int, protocol: int | None = None) -> list[Route]:
    """The routes of the main table, of one protocol where it is given."""
    message = rtmsg()
    message["family"] = family
    return [
        _read(found)
        for found in kernel.dump(rtnl.GET_ROUTE, message)
        if found["family"] == family
        and (found.get_attr("RTA_TABLE") or found["table"]) == _MAIN
        and (protocol is None or found["proto"] == protocol)
    ]


def delete_ours(kernel: Rtnl, family: int) -> int:
    """No route of our protocol is left; how many there were."""
    routes = listed(kernel, family, ROUTE_PROTOCOL)
    requests = [_deletion(route, family) for route in routes]
    for request, number in zip(requests, kernel.attempt(requests), strict=True):
        if number not in {0, errno.ESRCH}:
            raise KernelRefused(request.what, number)
    return len(routes)


def _deletion(route: Route, family: int) -> Request:
    network, _, length = route.destination.partition("/")
    attrs: list[tuple[str, object]] = [("RTA_DST", network)]
    if route.ifindex:
        attrs.append(("RTA_OIF", route.ifindex))
    message = _route(family, int(length), attrs, scope=_NOWHERE, protocol=ROUTE_PROTOCOL, kind=0)
    return Request(f"delete the route {route.destination}", rtnl.DELETE_ROUTE, rtnl.SET, message)


def _through(gateway: str, index: int) -> Message:
    attrs = [("RTA_GATEWAY", gateway), ("RTA_OIF", index)]
    return _route(family_of(gateway), 0, attrs, scope=0, protocol=_BOOT)


def _route(
    family: int,
    length: int,
    attrs: list[tuple[str, object]],
    *,
    scope: int,
    protocol: int,
    kind: int = _UNICAST,
) -> Message:
    message = rtmsg()
    message["family"], message["dst_len"], message["table"] = family, length, _MAIN
    message["proto"], message["scope"], message["type"] = protocol, scope, kind
    message["attrs"] = attrs
    return message


def _read(message: Message) -> Route:
    everything = "::" if message["family"] == family_of("::") else "0.0.0.0"  # noqa: S104  # a prefix, not a socket
    destination = f"{message.get_attr('RTA_DST') or everything}/{message['dst_len']}"
    return Route(destination, message.get_attr("RTA_GATEWAY") or "", message.get_attr("RTA_OIF") or 0)
