"""Every program: the file that it is compiled from, what it is to the kernel, where it is attached."""

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from datapath.kernel.syscall import AttachPoint, ProgramKind


class Place(Enum):
    """What a program is attached to."""

    POD = "pod"  # the host side of a pod's interface
    NETDEV = "netdev"  # a device by which the node reaches the outside
    PROXY = "proxy"  # the device by which packets come in again that a proxy is to have
    XDP = "xdp"  # the same, before there are socket buffers
    CGROUP = "cgroup"  # a cgroup2 folder, whose processes it serves


class Program(NamedTuple):
    """A program of ours."""

    unit: str
    kind: ProgramKind
    point: AttachPoint
    place: Place


_LXC: Final = "bpf_lxc.c"
_HOST: Final = "bpf_host.c"
_PROXY: Final = "bpf_proxy.c"
_XDP: Final = "bpf_xdp.c"
_SOCK: Final = "bpf_sock.c"


def _sock(point: AttachPoint, kind: ProgramKind = ProgramKind.CGROUP_SOCK_ADDR) -> Program:
    return Program(_SOCK, kind, point, Place.CGROUP)


PROGRAMS: Final[Mapping[str, Program]] = {
    # What a pod receives is judged before what it sends is let out: this is the order in which they are attached.
    "to_container": Program(_LXC, ProgramKind.SCHED_CLS, AttachPoint.TCX_EGRESS, Place.POD),
    "from_container": Program(_LXC, ProgramKind.SCHED_CLS, AttachPoint.TCX_INGRESS, Place.POD),
    # Answers are translated back before requests are translated.
    "to_netdev": Program(_HOST, ProgramKind.SCHED_CLS, AttachPoint.TCX_EGRESS, Place.NETDEV),
    "from_netdev": Program(_HOST, ProgramKind.SCHED_CLS, AttachPoint.TCX_INGRESS, Place.NETDEV),
    "to_proxy": Program(_PROXY, ProgramKind.SCHED_CLS, AttachPoint.TCX_INGRESS, Place.PROXY),
    "xdp_netdev": Program(_XDP, ProgramKind.XDP, AttachPoint.XDP, Place.XDP),
    # What translates back comes first: no socket is sent to a backend and then told who that is.
    "sock_recvmsg4": _sock(AttachPoint.CGROUP_UDP4_RECVMSG),
    "sock_recvmsg6": _sock(AttachPoint.CGROUP_UDP6_RECVMSG),
    "sock_peername4": _sock(AttachPoint.CGROUP_INET4_GETPEERNAME),
    "sock_peername6": _sock(AttachPoint.CGROUP_INET6_GETPEERNAME),
    "sock_connect4": _sock(AttachPoint.CGROUP_INET4_CONNECT),
    "sock_connect6": _sock(AttachPoint.CGROUP_INET6_CONNECT),
    "sock_sendmsg4": _sock(AttachPoint.CGROUP_UDP4_SENDMSG),
    "sock_sendmsg6": _sock(AttachPoint.CGROUP_UDP6_SENDMSG),
    "sock_bind4": _sock(AttachPoint.CGROUP_INET4_POST_BIND, ProgramKind.CGROUP_SOCK),
    "sock_bind6": _sock(AttachPoint.CGROUP_INET6_POST_BIND, ProgramKind.CGROUP_SOCK),
    "sock_release": _sock(AttachPoint.CGROUP_INET_SOCK_RELEASE, ProgramKind.CGROUP_SOCK),
}

UNITS: Final = tuple(dict.fromkeys(program.unit for program in PROGRAMS.values()))


def at(place: Place) -> Mapping[str, Program]:
    """The programs that are attached there, in the order in which they are."""
    return {name: program for name, program in PROGRAMS.items() if program.place is place}
