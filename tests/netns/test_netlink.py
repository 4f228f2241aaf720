"""Links, addresses and routes as the kernel has them, in namespaces of our own."""

import os
import socket
import threading

import pytest

from datapath.kernel import syscall
from datapath.kernel.syscall import AttachPoint, ProgramKind
from datapath.netlink import devices, links, netns, node, routes, xdp
from datapath.netlink.attachment import ROUTE_PROTOCOL, Attachment, Wiring
from datapath.netlink.errors import InterfaceExists, KernelRefused, NameTaken, NoNamespace, OwnNamespace
from datapath.netlink.families import family_of
from datapath.netlink.plumbing import VethPlumbing
from datapath.netlink.rtnl import Rtnl
from tests.support.netns import PATIENCE_S, Namespace, namespace, namespaces, ping
from tests.support.wire import PASSES, gather

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

ROUTERS = ("10.9.0.1", "fd09::1")
PREFIXES = ("10.9.0.0/24", "fd09::/64")
PLUMBING = VethPlumbing("n1")
ATTACHMENT = Attachment("net", "box", "eth0")


@pytest.fixture
def spaces():
    """The node's namespace, prepared, and two pods'."""
    with namespaces(3) as (host, *pods):
        host.run(lambda: PLUMBING.prepare_node(ROUTERS, PREFIXES))
        yield host, *pods


def wire(host: Namespace, pod: Namespace, number: int, container: str = "box") -> Wiring:
    attachment = Attachment("net", container, "eth0")
    link = host.run(lambda: PLUMBING.create(attachment, pod.path, 1400))
    return Wiring(
        attachment=attachment,
        netns=pod.path,
        link=link,
        addresses=(f"10.9.0.{number}", f"fd09::{number}"),
        gateways=ROUTERS,
    )


def plumbed(host: Namespace, pod: Namespace, number: int, container: str = "box") -> Wiring:
    wiring = wire(host, pod, number, container)
    assert host.run(lambda: PLUMBING.configure(wiring)) == ("0.0.0.0/0", "::/0")
    return wiring


def introduce(pod: Namespace, wiring: Wiring) -> None:
    """The IPv6 gateway's MAC, which the program on the link tells a pod where there is one."""
    pod.ip("neigh", "replace", ROUTERS[1], "lladdr", wiring.link.host_mac, "dev", "eth0", "nud", "permanent")


def test_pods_reach_each_other_and_the_node_through_routes_alone(spaces):
    host, one, two = spaces
    introduce(one, plumbed(host, one, 2, "a"))
    introduce(two, plumbed(host, two, 3, "b"))
    assert one.run(lambda: ping("10.9.0.3", PATIENCE_S))
    assert one.run(lambda: ping("fd09::3", PATIENCE_S))
    assert two.run(lambda: ping("10.9.0.1", PATIENCE_S))
    assert two.run(lambda: ping("fd09::1", PATIENCE_S))
    assert host.run(lambda: ping("10.9.0.2", PATIENCE_S))
    assert host.run(lambda: ping("fd09::2", PATIENCE_S))


def test_a_device_is_found_with_the_addresses_that_are_good_for_all_the_world():
    with namespace() as home:
        home.ip("link", "add", "eth0", "address", "02:00:00:00:00:07", "type", "veth", "peer", "name", "other")
        assert home.run(lambda: devices.find("eth0")) == (
            *(home.run(lambda: socket.if_nametoindex("eth0")), bytes.fromhex("020000000007"), "veth"),
            *(bytes(4), bytes(16)),
        )
        for address, *more in (
            ("169.254.0.1/16", "scope", "link"),
            ("192.0.2.1/24", "preferred_lft", "0"),
            ("198.51.100.7/24",),
            ("198.51.100.8/24",),
            ("fe80::7/64", "nodad"),
            ("2001:db8::1/64", "nodad", "preferred_lft", "0"),
            ("2001:db8::7/64", "nodad"),
        ):
            home.ip("address", "add", address, "dev", "eth0", *more)
        found = home.run(lambda: devices.find("eth0"))
        assert found is not None
        assert found.ipv4 == socket.inet_pton(socket.AF_INET, "198.51.100.7")
        assert found.ipv6 == socket.inet_pton(socket.AF_INET6, "2001:db8::7")
        assert home.run(lambda: devices.find("lo")) is None, "it is no Ethernet device"
        assert home.run(lambda: devices.find("eth7")) is None


def test_one_end_of_a_cable_takes_frames_while_the_other_is_ready_for_them():
    with namespaces(2) as (home, away):
        home.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", away.name)
        for one in (home, away):
            one.ip("link", "set", "eth0", "up")

        def takes() -> bool:
            return home.run(lambda: xdp.takes_frames(socket.if_nametoindex("eth0")))

        assert not takes()
        away.run(lambda: gather("eth0", on=True))
        assert takes()
        away.run(lambda: gather("eth0", on=False))
        assert not takes()
        program = syscall.prog_load(ProgramKind.XDP, AttachPoint.XDP, PASSES, "cpt_pass")
        index = away.run(lambda: socket.if_nametoindex("eth0"))
        link = away.run(lambda: syscall.link_create(program, index, AttachPoint.XDP, "the other end", 1 << 2))
        os.close(program)
        assert takes()
        os.close(link)
        assert not takes()
        with pytest.raises(KernelRefused):
            home.run(lambda: xdp.takes_frames(1 << 20))


def test_an_address_that_no_pod_has_is_unreachable(spaces):
    host, _, _ = spaces
    assert "unreachable 10.9.0.0/24 proto 190" in host.ip("route")
    with pytest.raises(OSError, match="No route to host"):
        host.run(lambda: __import__("socket").create_connection(("10.9.0.77", 80), timeout=1))


def test_preparing_the_node_twice_changes_nothing(spaces):
    host, _, _ = spaces
    before = host.ip("address") + host.ip("route")
    host.run(lambda: PLUMBING.prepare_node(ROUTERS, PREFIXES))
    assert "10.9.0.1/32" in before
    assert [line for line in (host.ip("address") + host.ip("route")).splitlines() if "fe80" not in line] == [
        line for line in before.splitlines() if "fe80" not in line
    ]


def test_removing_the_node_leaves_no_route_and_no_link_of_ours(spaces):
    host, one, _ = spaces
    wiring = plumbed(host, one, 2)
    host.run(lambda: PLUMBING.delete(wiring.link.host_interface))
    host.run(node.remove)
    assert host.interfaces() == set()

    def ours() -> list[object]:
        with Rtnl() as kernel:
            return [r for a in ROUTERS for r in routes.listed(kernel, family_of(a), ROUTE_PROTOCOL)]

    assert host.run(ours) == []


def test_a_pod_has_its_name_mac_mtu_and_addresses(spaces):
    host, one, _ = spaces
    wiring = plumbed(host, one, 2)
    text = one.ip("address", "show", "dev", "eth0")
    for part in ("mtu 1400", wiring.link.mac, "inet 10.9.0.2/32", "inet6 fd09::2/128"):
        assert part in text
    assert "alias cplane:n1:net:box:eth0" in host.ip("link", "show", wiring.link.host_interface)
    assert host.run(lambda: PLUMBING.problems(wiring, ("0.0.0.0/0", "::/0"))) == ()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (("pod", "address", "del", "10.9.0.2/32", "dev", "eth0"), "eth0 has lost its address 10.9.0.2"),
        (("pod", "-6", "route", "del", "default"), "no route to ::/0 through eth0"),
        (("pod", "link", "set", "eth0", "down"), "eth0 is down"),
        (("pod", "link", "del", "eth0"), "the container has no interface eth0"),
        (("host", "route", "del", "10.9.0.2/32"), "the node has no route to 10.9.0.2/32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_is_named(spaces, damage, problem):
    host, one, _ = spaces
    wiring = plumbed(host, one, 2)
    where, *command = damage
    (one if where == "pod" else host).ip(*command)
    found = host.run(lambda: PLUMBING.problems(wiring, ("0.0.0.0/0", "::/0")))
    assert any(problem in text for text in found), found


def test_a_namespace_that_is_gone_is_a_problem_not_a_failure(spaces):
    host, one, _ = spaces
    wiring = plumbed(host, one, 2)
    lost = Wiring(
        attachment=wiring.attachment,
        netns="/run/netns/cpt-no-such",
        link=wiring.link,
        addresses=wiring.addresses,
        gateways=wiring.gateways,
    )
    assert any("No such file" in text for text in host.run(lambda: PLUMBING.problems(lost, ())))


def test_the_node_side_is_put_right_after_somebody_flushed_it(spaces):
    host, one, _ = spaces
    wiring = plumbed(host, one, 2)
    host.ip("route", "flush", "proto", "190")
    host.ip("neigh", "flush", "dev", wiring.link.host_interface, "nud", "permanent")
    host.run(lambda: PLUMBING.restore([wiring]))
    assert host.run(lambda: PLUMBING.problems(wiring, ())) == ()
    assert host.run(lambda: ping("10.9.0.2", PATIENCE_S))


def test_an_interface_name_that_the_container_has_is_refused_and_leaves_nothing(spaces):
    host, one, _ = spaces
    one.ip("link", "add", "eth0", "type", "veth", "peer", "other")
    with pytest.raises(InterfaceExists):
        host.run(lambda: PLUMBING.create(ATTACHMENT, one.path, 1500))
    assert host.run(PLUMBING.owned) == {}


def test_making_a_link_again_replaces_what_an_interrupted_attempt_left(spaces):
    host, one, two = spaces
    host.run(lambda: PLUMBING.create(ATTACHMENT, one.path, 1500))
    link = host.run(lambda: PLUMBING.create(ATTACHMENT, two.path, 1500))
    assert one.interfaces() == set()
    assert two.interfaces() == {"eth0"}
    assert {name: owned.ifindex for name, owned in host.run(PLUMBING.owned).items()} == {
        link.host_interface: link.ifindex
    }


def test_a_link_that_was_killed_before_it_had_an_alias_is_still_ours(spaces):
    host, one, _ = spaces
    name = ATTACHMENT.host_interface
    host.ip("link", "add", name, "group", "6516844", "type", "veth", "peer", "eth0", "netns", one.name)
    owned = host.run(PLUMBING.owned)
    assert owned[name].attachment is None
    assert host.run(lambda: PLUMBING.delete(name))
    assert one.interfaces() == set()


def test_links_of_strangers_and_of_other_instances_are_left_alone(spaces):
    host, one, _ = spaces
    other = VethPlumbing("n2")
    host.run(lambda: other.create(ATTACHMENT, one.path, 1500))
    host.ip("link", "add", "lxc0123456789ab", "type", "veth", "peer", "other")
    assert host.run(PLUMBING.owned) == {}
    for name in (ATTACHMENT.host_interface, "lxc0123456789ab"):
        with pytest.raises(NameTaken):
            host.run(lambda name=name: PLUMBING.delete(name))
    with pytest.raises(NameTaken):
        host.run(lambda: PLUMBING.create(ATTACHMENT, one.path, 1500))


def test_deleting_twice_says_that_there_was_nothing_the_second_time(spaces):
    host, one, _ = spaces
    wiring = plumbed(host, one, 2)
    assert host.run(lambda: PLUMBING.delete(wiring.link.host_interface))
    assert not host.run(lambda: PLUMBING.delete(wiring.link.host_interface))
    assert one.interfaces() == set()
    assert wiring.link.host_interface not in host.ip("route")


def test_a_default_route_of_another_network_stays(spaces):
    host, one, _ = spaces
    one.ip("link", "add", "net1", "type", "veth", "peer", "other")
    one.ip("address", "add", "192.0.2.2/24", "dev", "net1")
    one.ip("link", "set", "net1", "up")
    one.ip("route", "add", "default", "via", "192.0.2.1")
    wiring = wire(host, one, 2)
    assert host.run(lambda: PLUMBING.configure(wiring)) == ("::/0",)
    assert "default via 192.0.2.1 dev net1" in one.ip("route")


def test_through_a_gateway_of_another_interface_nothing_goes_through_ours(spaces):
    host, one, _ = spaces
    one.ip("link", "add", "net1", "type", "veth", "peer", "other")
    one.ip("link", "set", "net1", "up")
    one.ip("route", "add", ROUTERS[0], "dev", "net1")
    wiring = wire(host, one, 2)
    assert host.run(lambda: PLUMBING.configure(wiring)) == ("::/0",)
    assert "default" not in one.ip("route")


def test_the_node_addresses_are_its_own_only(spaces):
    host, one, _ = spaces
    plumbed(host, one, 2)
    host.ip("link", "add", "up0", "type", "veth", "peer", "other")
    host.ip("link", "set", "up0", "up")
    host.ip("address", "add", "198.51.100.7/24", "dev", "up0")
    host.ip("address", "add", "2001:db8::7/64", "dev", "up0", "nodad")
    assert host.run(PLUMBING.local_addresses) == ("198.51.100.7", "2001:db8::7")


def test_forwarding_keeps_routes_from_router_advertisements(spaces):
    with namespaces(1) as (fresh,):
        fresh.ip("link", "add", "up0", "type", "veth", "peer", "other")
        fresh.run(lambda: PLUMBING.prepare_node(ROUTERS, PREFIXES))

        def setting() -> str:
            with open("/proc/sys/net/ipv6/conf/up0/accept_ra", encoding="ascii") as file:
                return file.read().strip()

        assert fresh.run(setting) == "2"


def test_paths_that_lead_to_no_pod_are_refused(spaces, tmp_path):
    host, _, _ = spaces
    plain = tmp_path / "file"
    plain.write_text("")
    for path in (str(plain), "/run/netns/cpt-no-such", "/proc/self/ns/mnt"):
        with pytest.raises(NoNamespace):
            host.run(lambda path=path: PLUMBING.create(ATTACHMENT, path, 1500))
        assert not host.run(lambda path=path: PLUMBING.netns_exists(path))
    with pytest.raises(OwnNamespace):
        host.run(lambda: PLUMBING.create(ATTACHMENT, host.path, 1500))
    assert not host.run(lambda: PLUMBING.netns_exists(host.path))


def test_a_link_says_which_namespace_it_leads_to(spaces):
    host, one, two = spaces
    found = [wire(host, space, number, f"box{number}").link.netns_cookie for number, space in ((2, one), (3, two))]
    assert found == [one.run(netns.own_cookie), two.run(netns.own_cookie)]
    assert len({0, host.run(netns.own_cookie), *found}) == 4


def test_work_in_a_namespace_leaves_the_thread_where_it_was_and_its_error_comes_back(spaces):
    _, one, _ = spaces
    before = os.stat("/proc/thread-self/ns/net").st_ino
    threads = threading.active_count()
    with netns.opened(one.path) as namespace:
        there = netns.run_in(namespace, lambda: os.stat("/proc/thread-self/ns/net").st_ino)
        assert there == os.stat(one.path).st_ino != before
        with pytest.raises(ZeroDivisionError):
            netns.run_in(namespace, lambda: 1 // 0)
    assert os.stat("/proc/thread-self/ns/net").st_ino == before
    assert threading.active_count() == threads


def test_what_the_kernel_refuses_says_what_and_why(spaces):
    host, _, _ = spaces

    def wrong() -> None:
        with Rtnl() as kernel:
            kernel.do(links.set_up(9999, "nothing"))

    with pytest.raises(KernelRefused, match="set nothing up: No such device"):
        host.run(wrong)
