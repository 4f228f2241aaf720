"""Two nodes with an agent each, and clients outside who ask the one and have a cable to the other, too."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from datapath.kernel import syscall
from datapath.kernel.syscall import AttachPoint, ProgramKind
from tests.support.netns import Namespace
from tests.support.site import CABLE, WORLD4, WORLD6, Site, site
from tests.support.wire import PASSES, sum_in_software

BEHIND: Final = {4: "192.0.2.1", 6: "fd99::1"}
"""Where the node behind sees the one in front, by family."""

_MAC: Final = "02:00:00:00:00:77"


@contextmanager
def two_nodes(
    programs: Path,
    folder: Callable[[str], Path],
    dispatch: str,
    *,
    behind: str = "next0",
    options: tuple[str, ...] = (),
) -> Iterator[tuple[Site, Site]]:
    """The node that clients ask, and one behind it with a cable of its own to them; `dispatch`: how DSR tells it.

    `behind`: the devices by which the latter serves clients; its own cable is `out0`. `options`: of both agents.
    """
    common = ("--lb-dsr-dispatch", dispatch, *options)
    front_options = ("--lb-devices", f"{CABLE} next0", *common)
    back_options = ("--lb-devices", behind, "--ipv4-pod-cidr", "10.245.0.0/24", "--ipv6-pod-cidr", "fd00:10:245::/64")
    with (
        site(folder("front"), programs, start=False, options=front_options) as front,
        site(folder("back"), programs, start=False, options=(*back_options, *common)) as back,
    ):
        back.node.ip("link", "delete", CABLE)
        front.node.ip("link", "add", "next0", "type", "veth", "peer", "name", "next0", "netns", back.node.name)
        for number, one in enumerate((front, back), 1):
            one.node.ip("address", "add", f"192.0.2.{number}/24", "dev", "next0")
            one.node.ip("address", "add", f"fd99::{number}/64", "dev", "next0", "nodad")
            one.node.ip("link", "set", "next0", "up")
        for family, prefix in (("-4", "10.245.0.0/24"), ("-6", "fd00:10:245::/64")):
            front.node.ip(family, "route", "add", prefix, "via", "192.0.2.2" if family == "-4" else "fd99::2")
        world = front.world.netns
        back.node.ip("link", "add", "out0", "type", "veth", "peer", "eth1", "address", _MAC, "netns", world.name)
        back.node.ip("link", "set", "out0", "up")
        world.ip("link", "set", "eth1", "up")
        for family, client in ((4, WORLD4), (6, WORLD6)):
            back.node.ip(f"-{family}", "route", "add", client, "dev", "out0")
            back.node.ip("neighbour", "add", client, "lladdr", _MAC, "dev", "out0", "nud", "permanent")
        front.agent.start()
        back.agent.start()
        yield front, back


@contextmanager
def passing(netns: Namespace, device: str) -> Iterator[None]:
    """The end of a cable runs XDP, without which nothing sent by XDP arrives there; checksums are in what it sends."""
    passes = syscall.prog_load(ProgramKind.XDP, AttachPoint.XDP, PASSES, "cpe_pass")

    def attach() -> int:
        sum_in_software(device)
        return syscall.link_create(passes, socket.if_nametoindex(device), AttachPoint.XDP, "a cable's end", 1 << 2)

    try:
        link = netns.run(attach)
        try:
            yield
        finally:
            os.close(link)
    finally:
        os.close(passes)
