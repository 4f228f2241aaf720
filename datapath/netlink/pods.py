"""Both ends of a pod's link, once its addresses are known. `inside_*` run in the pod's namespace."""

import errno
from collections.abc import Sequence

from datapath.netlink import addresses, links, routes, rtnl, rules
from datapath.netlink.attachment import Link, Wiring
from datapath.netlink.errors import KernelRefused
from datapath.netlink.families import bits_of, everything, family_of
from datapath.netlink.rtnl import Request, Rtnl

_LOOPBACK = 1  # ifindex of lo in every namespace
_TABLES = 0x6370_0000  # with an interface's number: the table by which packets from its addresses are routed
_ASIDE = 0x6370  # priority of the rules that say so, before the main table's 32766


def inside_configure(interface: str, given: Sequence[str], gateways: Sequence[str]) -> tuple[str, ...]:
    """The interface is up with its addresses and routes, lo is up; the destinations routed through it.

    Gateway and default routes that another interface has already are left to it, as the specification asks. Then what
    has an address of this one leaves here all the same, or it would come to the node by a link that is not its own.
    """
    index = rtnl.index_of(interface)
    if any(":" in address for address in given):
        # Runtimes switch IPv6 off in the namespaces they make; a router's advertisement must not change a
        # pod.
        rtnl.write_sysctl(f"ipv6/conf/{interface}/disable_ipv6", "0")
        rtnl.write_sysctl(f"ipv6/conf/{interface}/accept_ra", "0")
    made = [links.set_up(_LOOPBACK, "lo"), links.set_up(index, interface)]
    made += [addresses.add(index, interface, address) for address in given]
    near = [routes.to_gateway(gateway, index, interface) for gateway in gateways]
    far = [routes.default(gateway, index) for gateway in gateways]
    with Rtnl() as kernel:
        # All in one: between two requests others may take the kernel's lock of all devices, for a grace period each.
        answers = iter(kernel.attempt([*made, *near, *far]))
        for request in made:
            _must_be(request, next(answers), 0)
        to_gateways = [_must_be(request, next(answers), 0, errno.EEXIST) for request in near]
        routed = []
        for address, gateway, request, there in zip(given, gateways, far, to_gateways, strict=True):
            number = next(answers)
            if there:  # through another interface, and so must be what is beyond
                kernel.do(*(() if number else (routes.not_default(gateway, index),)))
            elif not _must_be(request, number, 0, errno.EEXIST):
                routed.append(everything(gateway))
                continue
            _set_aside(kernel, interface, index, address, gateway)
    return tuple(routed)


def _set_aside(kernel: Rtnl, interface: str, index: int, address: str, gateway: str) -> None:
    """Packets from the address go to the gateway through this interface, others as they did."""
    held = rules.listed(kernel, family_of(address))
    stale = [rule for rule in held if rule.table > _TABLES and not rtnl.name_of(rule.table - _TABLES)]
    kernel.do(*map(rules.not_of_source, stale))  # routes go with their interface, rules do not
    table = _TABLES + index
    rule = rules.of_source(rules.Sourced(_ASIDE, address, table))
    requests = [*routes.aside(gateway, index, interface, table), rule]
    for request, number in zip(requests, kernel.attempt(requests), strict=True):
        _must_be(request, number, 0, errno.EEXIST)


def inside_problems(interface: str, mac: str, given: Sequence[str], routed: Sequence[str]) -> list[str]:
    """What is missing on the pod's side, in words; `routed` are the destinations that must lead through it."""
    index = rtnl.index_of(interface)
    if not index:
        return [f"the container has no interface {interface}"]
    with Rtnl() as kernel:
        found = links.get(kernel, index)
        if found is None:
            return [f"the container has no interface {interface}"]
        problems = [] if links.is_up(found) else [f"{interface} is down"]
        if found.get_attr("IFLA_ADDRESS") != mac:
            problems.append(f"{interface} has the MAC {found.get_attr('IFLA_ADDRESS')} and not {mac}")
        held = addresses.of_interface(kernel, index)
        problems += [f"{interface} has lost its address {address}" for address in given if address not in held]
        for family in {family_of(prefix) for prefix in routed}:
            there = {route.destination for route in routes.listed(kernel, family) if route.ifindex == index}
            wanted = (prefix for prefix in routed if family_of(prefix) == family)
            problems += [f"no route to {prefix} through {interface}" for prefix in wanted if prefix not in there]
    return problems


def host_configure(kernel: Rtnl, wiring: Wiring) -> None:
    """The node's side is up and the node reaches the pod. Idempotent."""
    link = wiring.link
    name = link.host_interface
    ipv6 = any(":" in address for address in wiring.addresses)
    _host_sysctls(name, ipv6=ipv6)
    kernel.do(
        *((links.without_link_local(link.ifindex, name),) if ipv6 else ()),
        links.set_up(link.ifindex, name),
        *(routes.neighbour(address, link.ifindex, name, link.mac) for address in wiring.addresses),
        *(
            routes.to_pod(address, link.ifindex, name, gateway)
            for address, gateway in zip(wiring.addresses, wiring.gateways, strict=True)
        ),
    )


def host_problems(kernel: Rtnl, link: Link, given: Sequence[str]) -> list[str]:
    """What is missing on the node's side, in words."""
    name = link.host_interface
    found = links.get(kernel, link.ifindex)
    if found is None or found.get_attr("IFLA_IFNAME") != name:
        return [f"the node has no link {name} with number {link.ifindex}"]
    problems = [] if links.is_up(found) else [f"{name} is down"]
    for address in given:
        prefix = f"{address}/{bits_of(address)}"
        there = routes.listed(kernel, family_of(address))
        if not any(route.destination == prefix and route.ifindex == link.ifindex for route in there):
            problems.append(f"the node has no route to {prefix} through {name}")
    return problems


def _must_be(request: Request, number: int, *numbers: int) -> int:
    """The errno that the request got, which is one of these. Raises KernelRefused."""
    if number not in numbers:
        raise KernelRefused(request.what, number)
    return number


def _host_sysctls(name: str, *, ipv6: bool) -> None:
    """The node's side takes packets that come back another way, and has no opinion of its own.

    The reverse path filter is what is stricter of the device's and `all`'s; `all` is the machine's and is
    left alone, which is fine because routes to pods are symmetrical.
    """
    rtnl.write_sysctl(f"ipv4/conf/{name}/rp_filter", "0")
    if ipv6:
        rtnl.write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0")
        rtnl.write_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
