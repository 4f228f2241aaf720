"""Links: veth pairs with our mark, made with the far side in its namespace; found again; removed."""

import errno
from collections.abc import Mapping
from typing import Final

from datapath.netlink import rtnl
from datapath.netlink.attachment import LINK_GROUP, Attachment, Link, OwnedLink, parse_alias
from datapath.netlink.errors import InterfaceExists, KernelRefused, NameTaken
from datapath.netlink.messages import ifinfmsg
from datapath.netlink.rtnl import Message, Request, Rtnl

_UP: Final = 1  # IFF_UP
_NO_LINK_LOCAL: Final = 1  # IN6_ADDR_GEN_MODE_NONE
_SKIP_STATISTICS: Final = 1 << 3  # RTEXT_FILTER_SKIP_STATS


def create_pod_pair(attachment: Attachment, netns: int, path: str, *, mtu: int, instance: str) -> Link:
    """A pair, both sides down: the pod's under its final name in the namespace, the node's marked as ours.

    What an interrupted attempt left behind under the name is removed first. Raises InterfaceExists when the
    container has such an interface, NameTaken when the node's name is a stranger's, KernelRefused.
    """
    alias = attachment.alias(instance)
    name = attachment.host_interface
    with Rtnl() as kernel:
        delete_owned(kernel, name, instance)
        request = _pair(attachment, netns, mtu)
        number = kernel.attempt([request])[0]
        if number == errno.EEXIST:
            raise InterfaceExists(attachment.interface, path)
        if number:
            raise KernelRefused(request.what, number)
        index = rtnl.index_of(name)
        try:
            kernel.do(_change(index, name, attrs=[("IFLA_IFALIAS", alias)]))
        except KernelRefused:
            delete_owned(kernel, name, instance)
            raise
    mac, host_mac = attachment.mac, attachment.host_mac
    return Link(host_interface=name, ifindex=index, mac=mac, host_mac=host_mac, mtu=mtu)


def delete_owned(kernel: Rtnl, name: str, instance: str) -> bool:
    """The link is gone, and with it its peer, routes and neighbours; False: there was none.

    Raises NameTaken when it is not ours.
    """
    index = rtnl.index_of(name)
    if not index:
        return False
    found = get(kernel, index)
    if found is None:
        return False
    if _owned(found, instance) is None:
        raise NameTaken(name)
    request = deletion(index, name)
    number = kernel.attempt([request])[0]
    if number not in {0, errno.ENODEV}:
        raise KernelRefused(request.what, number)
    return number == 0


def list_owned(kernel: Rtnl, instance: str) -> list[OwnedLink]:
    """The node's sides of pods that this instance made, finished or not."""
    message = _link(0, attrs=[("IFLA_EXT_MASK", _SKIP_STATISTICS)])
    owned = (_owned(found, instance) for found in kernel.dump(rtnl.GET_LINK, message))
    return [link for link in owned if link is not None]


def get(kernel: Rtnl, index: int) -> Message | None:
    """The link's message, None when there is no such link."""
    try:
        return kernel.get(rtnl.GET_LINK, _link(index, attrs=[("IFLA_EXT_MASK", _SKIP_STATISTICS)]))
    except KernelRefused as refused:
        if refused.errno == errno.ENODEV:
            return None
        raise


def is_up(message: Message) -> bool:
    """Whether the link has been set up."""
    return bool(message["flags"] & _UP)


def set_up(index: int, name: str) -> Request:
    """The link is up."""
    return Request(f"set {name} up", rtnl.NEW_LINK, rtnl.SET, _link(index, up=True))


def without_link_local(index: int, name: str) -> Request:
    """IPv6 gives the link no address of its own.

    There is a sysctl for it, too: while somebody holds the kernel's lock of all devices, as an attachment of a program
    does for a grace period, it keeps a processor busy with trying again.
    """
    family = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_LINK_LOCAL)]})]}
    return _change(index, name, attrs=[("IFLA_AF_SPEC", family)])


def deletion(index: int, name: str) -> Request:
    """The link is gone, and with it its peer."""
    return Request(f"delete link {name}", rtnl.DELETE_LINK, rtnl.SET, _link(index))


def is_ours(kernel: Rtnl, name: str) -> bool:
    """Whether there is such a link and it has our mark."""
    index = rtnl.index_of(name)
    found = get(kernel, index) if index else None
    return found is not None and found.get_attr("IFLA_GROUP") == LINK_GROUP


def create_node_pair(kernel: Rtnl, name: str, peer: str) -> None:
    """The node's own pair of interfaces exists, marked as ours. Raises NameTaken, KernelRefused."""
    if rtnl.index_of(name):
        if not is_ours(kernel, name):
            raise NameTaken(name)
        return
    attrs = [
        ("IFLA_IFNAME", name),
        ("IFLA_GROUP", LINK_GROUP),
        ("IFLA_LINKINFO", _veth({"attrs": [("IFLA_IFNAME", peer), ("IFLA_GROUP", LINK_GROUP)]})),
    ]
    kernel.do(Request(f"create link {name}", rtnl.NEW_LINK, rtnl.CREATE, _link(0, attrs=attrs)))


def _pair(attachment: Attachment, netns: int, mtu: int) -> Request:
    peer = {
        "attrs": [
            ("IFLA_IFNAME", attachment.interface),
            ("IFLA_NET_NS_FD", netns),
            ("IFLA_ADDRESS", attachment.mac),
            ("IFLA_MTU", mtu),
        ]
    }
    attrs = [
        ("IFLA_IFNAME", attachment.host_interface),
        ("IFLA_GROUP", LINK_GROUP),
        ("IFLA_ADDRESS", attachment.host_mac),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", _veth(peer)),
    ]
    what = f"create link {attachment.host_interface} with {attachment.interface} in the container"
    return Request(what, rtnl.NEW_LINK, rtnl.CREATE, _link(0, attrs=attrs))


def _veth(peer: Mapping[str, object]) -> dict[str, object]:
    data = {"attrs": [("VETH_INFO_PEER", peer)]}
    return {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}


def _change(index: int, name: str, attrs: list[tuple[str, object]]) -> Request:
    return Request(f"change link {name}", rtnl.NEW_LINK, rtnl.SET, _link(index, attrs=attrs))


def _link(index: int, *, up: bool = False, attrs: list[tuple[str, object]] | None = None) -> Message:
    message = ifinfmsg()
    message["index"] = index
    if up:
        message["flags"] = message["change"] = _UP
    message["attrs"] = attrs or []
    return message


def _owned(message: Message, instance: str) -> OwnedLink | None:
    """What the message describes, where it is the node's side of a pod of ours."""
    name, alias = message.get_attr("IFLA_IFNAME"), message.get_attr("IFLA_IFALIAS") or ""
    attachment = parse_alias(alias, instance)
    unfinished = not alias and message.get_attr("IFLA_GROUP") == LINK_GROUP and _is_pod_name(name)
    if attachment is None and not unfinished:
        return None
    return OwnedLink(host_interface=name, ifindex=message["index"], attachment=attachment)


def _is_pod_name(name: str) -> bool:
    prefix, digits = name[:3], name[3:]
    return prefix == "lxc" and len(digits) == 12 and all(digit in "0123456789abcdef" for digit in digits)
