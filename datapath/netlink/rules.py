"""Rules: which packets are routed by which table."""

import errno
from typing import Final, NamedTuple

from datapath.netlink import rtnl
from datapath.netlink.attachment import ROUTE_PROTOCOL
from datapath.netlink.errors import KernelRefused
from datapath.netlink.families import bits_of, family_of
from datapath.netlink.messages import fibmsg
from datapath.netlink.rtnl import Request, Rtnl

_LOOK_UP: Final = 1  # FR_ACT_TO_TBL
_LARGE: Final = 252  # RT_TABLE_COMPAT: the number stands in an attribute


class Marked(NamedTuple):
    """Packets whose mark is `mark` in the bits of `mask` are routed by `table`; the least `priority` is asked first."""

    priority: int
    mark: int
    mask: int
    table: int


class Sourced(NamedTuple):
    """Packets from `address` are routed by `table`."""

    priority: int
    address: str
    table: int


def of_source(rule: Sourced, kind: int = rtnl.NEW_RULE, flags: int = rtnl.CREATE) -> Request:
    """The rule holds."""
    message = fibmsg()
    message["family"], message["src_len"] = family_of(rule.address), bits_of(rule.address)
    message["table"], message["action"] = _LARGE, _LOOK_UP
    message["attrs"] = [
        ("FRA_SRC", rule.address),
        ("FRA_PRIORITY", rule.priority),
        ("FRA_TABLE", rule.table),
        ("FRA_PROTOCOL", ROUTE_PROTOCOL),
    ]
    return Request(f"rule for packets from {rule.address}", kind, flags, message)


def not_of_source(rule: Sourced) -> Request:
    """It does not any more."""
    return of_source(rule, rtnl.DELETE_RULE, rtnl.SET)


def listed(kernel: Rtnl, family: int) -> list[Sourced]:
    """The rules of our protocol about where packets come from."""
    message = fibmsg()
    message["family"] = family
    return [
        Sourced(found.get_attr("FRA_PRIORITY") or 0, source, found.get_attr("FRA_TABLE") or found["table"])
        for found in kernel.dump(rtnl.GET_RULE, message)
        if found["family"] == family
        and found.get_attr("FRA_PROTOCOL") == ROUTE_PROTOCOL
        and (source := found.get_attr("FRA_SRC"))
    ]


def add(kernel: Rtnl, family: int, rule: Marked) -> None:
    """The rule holds. Idempotent. Raises KernelRefused."""
    _do(kernel, _request(family, rule, rtnl.NEW_RULE, rtnl.CREATE), errno.EEXIST)


def delete(kernel: Rtnl, family: int, rule: Marked) -> None:
    """It does not. Idempotent. Raises KernelRefused."""
    _do(kernel, _request(family, rule, rtnl.DELETE_RULE, rtnl.SET), errno.ENOENT)


def _do(kernel: Rtnl, request: Request, already: int) -> None:
    number = kernel.attempt([request])[0]
    if number not in {0, already}:
        raise KernelRefused(request.what, number)


def _request(family: int, rule: Marked, kind: int, flags: int) -> Request:
    message = fibmsg()
    message["family"], message["table"], message["action"] = family, _LARGE, _LOOK_UP
    message["attrs"] = [
        ("FRA_PRIORITY", rule.priority),
        ("FRA_FWMARK", rule.mark),
        ("FRA_FWMASK", rule.mask),
        ("FRA_TABLE", rule.table),
        ("FRA_PROTOCOL", ROUTE_PROTOCOL),
    ]
    return Request(f"rule for packets marked {rule.mark:#x}/{rule.mask:#x}", kind, flags, message)
