"""Pods' links in the kernel: made, wired up, checked, found again, removed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from datapath.netlink import links, netns, node, pods, rtnl
from datapath.netlink.attachment import Attachment, Link, OwnedLink, Wiring
from datapath.netlink.errors import NoNamespace, OwnNamespace
from datapath.netlink.rtnl import Rtnl


class VethPlumbing:
    """Veth pairs in the network namespace that the calling thread is in. Every method blocks; any thread may call.

    `instance` stands in the links' aliases: links of other instances are nobody's business here.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance

    def prepare_node(self, routers: Sequence[str], prefixes: Sequence[str]) -> None:
        """The node has its gateway addresses and forwards. Raises KernelRefused, NameTaken."""
        node.prepare(routers, prefixes)

    def prepare_proxies(self) -> int:
        """The interface by which packets come in again that a proxy is to have; the node is prepared.

        A packet to a pod may find the socket of a proxy that speaks with its sender. It is not for it, before it is
        judged; and the kernel drops what is to be forwarded and has a socket, so it must not look for one so early.
        """
        rtnl.write_sysctl("ipv4/ip_early_demux", "0")  # of IPv6 too
        return rtnl.index_of(node.PEER)

    def local_addresses(self) -> tuple[str, ...]:
        """The node's own addresses, sorted."""
        return node.local_addresses()

    def create(self, attachment: Attachment, path: str, mtu: int) -> Link:
        """A pair, both sides down, the container's in the namespace at `path`.

        Raises NoNamespace, OwnNamespace, InterfaceExists, NameTaken, KernelRefused.
        """
        with netns.opened(path) as namespace:
            if netns.is_own(namespace):
                raise OwnNamespace(path)
            made = links.create_pod_pair(attachment, namespace, path, mtu=mtu, instance=self._instance)
            return replace(made, netns_cookie=netns.run_in(namespace, netns.own_cookie))

    def configure(self, wiring: Wiring) -> tuple[str, ...]:
        """Both sides carry packets; the destinations that the pod routes through the link.

        Both at a time: the kernel's lock of all devices, which others hold for long, is waited for once.
        """
        interface = wiring.attachment.interface
        with netns.opened(wiring.netns) as namespace, Rtnl() as kernel:
            inside = netns.begin_in(
                namespace, lambda: pods.inside_configure(interface, wiring.addresses, wiring.gateways)
            )
            try:
                pods.host_configure(kernel, wiring)
            finally:
                inside.join()
            return inside.result()

    def problems(self, wiring: Wiring, routed: Sequence[str]) -> tuple[str, ...]:
        """What is missing, in words; nothing when all is well. `routed`: destinations the pod must route there."""
        interface, link, given = wiring.attachment.interface, wiring.link, wiring.addresses
        with Rtnl() as kernel:
            found = pods.host_problems(kernel, link, given)
        try:
            with netns.opened(wiring.netns) as namespace:
                found += netns.run_in(namespace, lambda: pods.inside_problems(interface, link.mac, given, routed))
        except NoNamespace as gone:
            found.append(str(gone))
        return tuple(found)

    def restore(self, wirings: Iterable[Wiring]) -> None:
        """The node's side of each is as it should be, where the link is there."""
        with Rtnl() as kernel:
            for wiring in wirings:
                if rtnl.index_of(wiring.link.host_interface) == wiring.link.ifindex:
                    pods.host_configure(kernel, wiring)

    def delete(self, host_interface: str) -> bool:
        """The pair is gone; False: there was none. Raises NameTaken when the name is a stranger's."""
        with Rtnl() as kernel:
            return links.delete_owned(kernel, host_interface, self._instance)

    def owned(self) -> dict[str, OwnedLink]:
        """What this instance made and is still there, by the name of the node's side."""
        with Rtnl() as kernel:
            return {link.host_interface: link for link in links.list_owned(kernel, self._instance)}

    def netns_exists(self, path: str) -> bool:
        """Whether the path leads to a container's network namespace now.

        The agent's own is none: a `/proc/<pid>/ns/net` may belong to another process by now.
        """
        try:
            with netns.opened(path) as namespace:
                return not netns.is_own(namespace)
        except NoNamespace:
            return False
