"""Pods without links, for agents without privileges: the same answers, and nothing in the kernel."""

import threading
from collections.abc import Iterable, Sequence
from typing import Final

from datapath.netlink.attachment import Attachment, Link, OwnedLink, Wiring
from datapath.netlink.families import everything

FIRST_INDEX: Final = 1_000_000  # no machine that runs tests has so many interfaces


class MemoryPlumbing:
    """Remembers what a kernel would have. Interface numbers come from the names, so they outlive the process."""

    def __init__(self) -> None:
        self._links: dict[str, OwnedLink] = {}
        self._wired: dict[str, Wiring] = {}
        self._lock = threading.Lock()

    def prepare_node(self, routers: Sequence[str], prefixes: Sequence[str]) -> None:
        """There is no node to prepare."""

    def local_addresses(self) -> tuple[str, ...]:
        """A node without interfaces has no addresses."""
        return ()

    def create(self, attachment: Attachment, path: str, mtu: int) -> Link:
        """The link that a kernel would have made. The namespace need not exist."""
        name = attachment.host_interface
        index = FIRST_INDEX + int(name[3:], 16) % 0x3FFF_FFFF
        with self._lock:
            self._links[name] = OwnedLink(host_interface=name, ifindex=index, attachment=attachment)
            self._wired.pop(name, None)
        mac, host_mac = attachment.mac, attachment.host_mac
        return Link(host_interface=name, ifindex=index, mac=mac, host_mac=host_mac, mtu=mtu)

    def configure(self, wiring: Wiring) -> tuple[str, ...]:
        """The addresses are remembered; one default route for each family."""
        with self._lock:
            self._wired[wiring.link.host_interface] = wiring
        return tuple(everything(gateway) for gateway in wiring.gateways)

    def problems(self, wiring: Wiring, routed: Sequence[str]) -> tuple[str, ...]:
        """That the link is not there, or has lost addresses."""
        name = wiring.link.host_interface
        with self._lock:
            held = self._wired.get(name)
        if held is None:
            return (f"the node has no link {name}",)
        return tuple(f"{name} has lost its address {a}" for a in wiring.addresses if a not in held.addresses)

    def restore(self, wirings: Iterable[Wiring]) -> None:
        """The links are there: without a kernel, nothing can have removed them while the agent was away."""
        with self._lock:
            for wiring in wirings:
                link = wiring.link
                self._wired[link.host_interface] = wiring
                self._links[link.host_interface] = OwnedLink(
                    host_interface=link.host_interface, ifindex=link.ifindex, attachment=wiring.attachment
                )

    def delete(self, host_interface: str) -> bool:
        """The link is forgotten; False: there was none."""
        with self._lock:
            self._wired.pop(host_interface, None)
            return self._links.pop(host_interface, None) is not None

    def owned(self) -> dict[str, OwnedLink]:
        """What was made and not deleted, by the name of the node's side."""
        with self._lock:
            return dict(self._links)

    def netns_exists(self, path: str) -> bool:
        """Always: what cannot be seen cannot be known to be gone."""
        return True
