"""The same question twice: to the reference, which reads the policies, and to the kernel, which has their tables."""

import ctypes
import struct
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from cplane.domain.identity import Reserved
from cplane.domain.policy.lookup import Decision, lookup
from cplane.domain.policy.mapstate import MapKey
from cplane.domain.policy.repository import AUDIT_PLANE, Enforcement
from cplane.domain.ports import PORTLESS_PROTOCOLS
from cplane.domain.verdict import Direction, DropReason
from cplane.events.catalog import Event
from cplane.events.config import OptionsChanged
from cplane.events.endpoint import EndpointConfigured, EndpointCreated
from cplane.events.fqdn import AddressesIdentified
from cplane.projections.addresses import prefix_key
from cplane.projections.delta import plan
from cplane.projections.tables import DEVICES, IPCACHE, LXC, POLICY, Tables
from datapath.kernel.syscall import Command, TestRunAttributes, bpf
from datapath.maps import endpoints, ipcache, policy
from datapath.maps.endpoints import DeviceInfo, DeviceKey, EndpointInfo, EndpointKey
from datapath.maps.ipcache import IpcacheInfo, IpcacheKey
from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.maps.state import MonitorFlags
from datapath.notify.records import RecordFlags
from datapath.targets.map import MapTarget
from tests.support.builders import DUAL_STACK, Document, allocated, upserted
from tests.support.kernel import DROP, PASS, A, B, Node
from tests.support.packets import ICMP, ICMP6, SCTP, TCP, UDP, ethernet, icmp, ipv4, ipv6, sctp, tcp, udp
from tests.support.policies import CIDRS, IDENTITIES, NAMED, PODS, number_of
from tests.support.random_policies import GROUPS, cidr_group, document
from tests.support.scenario import endpoint_created

OUTSIDE: Final = 5  # a device by which packets come into the node
FIRST_SENDER: Final = 20_000  # ports of senders; no rule and no question names a port between here and 30,000
ALWAYS: Final = ((TCP, 7), (UDP, 7), (TCP, 80), (TCP, 443), (TCP, 8080), (UDP, 53), (SCTP, 3868), (TCP, 65_535))
MESSAGES: Final = {ICMP: (8, 0, 3, 5, 11, 13, 14), ICMP6: (128, 129, 160, 1, 2, 3)}
ASKING: Final = {ICMP: (0, 8, 13, 14), ICMP6: (128, 129, 160)}  # with an identifier that tells conversations apart
FRAGMENTATION_NEEDED: Final = (3, 4)
NAMED_PORTS: Final = ((), ("http=8080/TCP",), ("dns=53/TCP", "dns=53/UDP", "http=80/TCP"))


class Peer(NamedTuple):
    """Somebody who is no pod of this node."""

    address: str
    identity: int

    @property
    def family(self) -> str:
        return "6" if ":" in self.address else "4"


REMOTE_PODS: Final = tuple(
    Peer(address, number)
    for number in (300, 302, 303, 304)
    for address in (f"10.244.7.{number - 200}", f"fd00:244:7::{number}")
)
NAMED_ADDRESS: Final = "198.51.100.1"
PEERS: Final = (
    *REMOTE_PODS,
    *(
        Peer(address, number_of(address))
        for address in (
            *("192.0.2.7", "10.99.0.1", "10.2.99.1", "10.2.3.4", "203.0.113.9", "203.0.113.7"),
            *("2001:4860::8888", "2001:db8::7", "2001:db8::1"),
        )
    ),
    Peer(NAMED_ADDRESS, NAMED),
    *(Peer(router, int(Reserved.HOST)) for router in (DUAL_STACK.ipv4_router, DUAL_STACK.ipv6_router)),
)


class Question(NamedTuple):
    """A first packet between pod A and a peer; `port` is the type of an ICMP message. A fragment is a later one."""

    direction: Direction
    peer: Peer
    protocol: int
    port: int
    code: int = 0
    fragment: bool = False


class Told(NamedTuple):
    """What a verdict record says."""

    verdict: int
    match: int
    audited: bool
    egress: bool
    cookie: int
    identities: tuple[int, int]


class Answer(NamedTuple):
    """Whether the packet passes, and its verdict record; None: there is none."""

    passes: bool
    told: Told | None


class Scene(NamedTuple):
    """Policies as tables, and what is true of pod A."""

    documents: Sequence[Document]
    tables: Tables
    policy_id: int
    audit: bool
    about: str


def scene(chance: Random) -> Scene:
    """One to seven policies, and groups, on a node whose pod A is one of several, with options as chance wants them."""
    documents = [document(chance, (f"p{number}",)) for number in range(chance.randint(1, 7))]
    documents += [cidr_group(chance, name) for name in GROUPS if chance.randrange(4)]
    subject, neighbour = chance.sample((300, 301, 302, 303), 2)
    mode = chance.choice((*Enforcement, Enforcement.DEFAULT, Enforcement.DEFAULT))
    agent_audit, own_audit = chance.random() < 0.1, chance.random() < 0.15
    named = chance.choice(NAMED_PORTS)
    local = [(n, labels) for n, (labels, _) in IDENTITIES.items() if n in PODS or n in CIDRS or n == NAMED]
    history: list[Event] = [
        DUAL_STACK,
        OptionsChanged(policy_enforcement=str(mode), policy_audit=agent_audit),
        *(allocated(number, labels) for number, labels in local),
        AddressesIdentified(identity=NAMED, addresses=(NAMED_ADDRESS,)),
        _endpoint(A.lxc_id, subject, 1, A.ipv4, A.ipv6, named),
        _endpoint(B.lxc_id, neighbour, B.device, B.ipv4, B.ipv6, chance.choice(NAMED_PORTS)),
        EndpointConfigured(endpoint=A.lxc_id, audit=own_audit),
        *(upserted(one) for one in documents),
    ]
    about = f"A is {subject} with {named}, B is {neighbour}, {mode}, audit {agent_audit} {own_audit}"
    return Scene(documents, Tables(history), subject, agent_audit or own_audit, about)


def _endpoint(
    number: int, identity: int, device: int, v4: str, v6: str, named_ports: tuple[str, ...]
) -> EndpointCreated:
    labels = PODS[identity].texts()
    made = endpoint_created(endpoint=number, ipv4=v4, ipv6=v6, identity=identity, host_ifindex=device, labels=labels)
    return msgspec.structs.replace(made, named_ports=named_ports)


def questions(one: Scene, number: int, chance: Random) -> Iterator[Question]:
    """So many questions, most of them at the edges of what rows name. None is part of another's connection."""
    edges = sorted({edge for key in one.tables.table(POLICY) for edge in _edges(one, key)})
    asked: set[tuple[Peer, int]] = set()  # messages without an identifier: those of one type are one conversation
    while number:
        if edges and chance.random() < 0.8:
            question = _question(*chance.choice(edges), chance)
        else:
            question = _question(chance.choice(tuple(Direction)), 0, *chance.choice(ALWAYS), chance)
        if question is None:
            continue
        if question.protocol in MESSAGES:
            known = (question.peer, question.port)
            if question.port not in ASKING[question.protocol] and known in asked:
                continue
            asked.add(known)
        number -= 1
        yield question


def _question(direction: Direction, identity: int, protocol: int, port: int, chance: Random) -> Question | None:
    """One with a peer that has the identity, 0: with anybody; None where nobody of its family has it."""
    family = {ICMP: "4", ICMP6: "6"}.get(protocol, "46")
    found = [one for one in PEERS if one.identity == (identity or one.identity) and one.family in family]
    if not found:
        return None
    code = chance.choice((1, FRAGMENTATION_NEEDED[1])) if (protocol, port) == (ICMP, FRAGMENTATION_NEEDED[0]) else 0
    fragment = protocol not in MESSAGES and chance.random() < 0.1
    return Question(direction, chance.choice(found), protocol, port, code, fragment)


def _edges(one: Scene, key: PolicyKey) -> Iterator[tuple[Direction, int, int, int]]:
    """At and beside both ends of the range that a row of pod A's policy names, where a packet can be there."""
    if key.policy_id & ~AUDIT_PLANE != one.policy_id or key.protocol in PORTLESS_PROTOCOLS:
        return
    direction = Direction(key.direction)
    if key.l4_bits < 8:
        for protocol, types in MESSAGES.items():
            yield direction, key.identity, protocol, types[0]
        yield from ((direction, key.identity, *traffic) for traffic in ALWAYS)
    elif key.protocol in MESSAGES:
        yield from ((direction, key.identity, key.protocol, kind) for kind in MESSAGES[key.protocol])
    else:
        last = key.port + (1 << (24 - key.l4_bits)) - 1
        for port in {key.port - 1, key.port, last, last + 1}:
            if 0 < port <= 65_535 and not FIRST_SENDER <= port < FIRST_SENDER + 10_000:
                yield direction, key.identity, key.protocol, port


def expected(one: Scene, asked: Question) -> Answer:
    """What the reference says: two lookups in map states, where the enforced plane allows and is audited."""
    egress = asked.direction is Direction.EGRESS
    own = one.policy_id
    ends = (own, asked.peer.identity) if egress else (asked.peer.identity, own)
    if (asked.protocol, asked.port, asked.code) == (ICMP, *FRAGMENTATION_NEEDED):
        return Answer(True, None)
    decided, cookie = _look_up(one, own, asked)
    audited = one.audit
    port = _proxy_port(one, own, decided)
    if decided.allowed and decided.audited:
        other, its_cookie = _look_up(one, own | AUDIT_PLANE, asked)
        if not other.allowed:
            decided, cookie, audited = other, its_cookie, True
    if decided.reason is None:
        # Nobody listens at the proxy port: what the policy allows is dropped, after it has said so.
        told = None if asked.fragment else Told(port, int(decided.match), False, egress, cookie, ends)
        return Answer(not port, told)
    return Answer(
        audited and not port, Told(-int(_reason(decided, asked)), int(decided.match), audited, egress, cookie, ends)
    )


def _proxy_port(one: Scene, policy_id: int, decided: Decision) -> int:
    if not decided.proxied:
        return 0
    assert decided.key is not None
    row = one.tables.table(POLICY)[PolicyKey(policy_id, *decided.key)]
    assert isinstance(row, PolicyEntry) and row.proxy_port, "a redirect has a port"
    return row.proxy_port


def _reason(decided: Decision, asked: Question) -> DropReason:
    assert decided.reason is not None
    unmatched = decided.reason is DropReason.POLICY_DENIED
    return DropReason.FRAGMENT_NOT_SUPPORTED if unmatched and asked.fragment else decided.reason


def _look_up(one: Scene, policy_id: int, asked: Question) -> tuple[Decision, int]:
    state = one.tables.policies.state(policy_id)
    assert state is not None, f"policy {policy_id} is asked for and is not there"
    decided = lookup(
        state.entry,
        asked.peer.identity,
        asked.direction,
        asked.protocol,
        0 if asked.fragment else asked.port,
        shown_bits=8 if asked.fragment else 24,
        lengths=state.lengths(asked.direction),
    )
    return decided, _cookie(state.entry, decided.key)


def _cookie(entry: Any, key: MapKey | None) -> int:  # Any: the state's bound method
    return entry(key).cookie if key is not None else 0


def frame_of(asked: Question, number: int) -> bytes:
    """The packet, of a connection that no other number has."""
    peer = asked.peer.address
    v6 = ":" in peer
    own = A.ipv6 if v6 else A.ipv4
    ends = (own, peer) if asked.direction is Direction.EGRESS else (peer, own)
    if asked.fragment:
        if v6:
            header = struct.pack(">BBHI", asked.protocol, 0, 185 << 3, number)
            return ethernet(ipv6(*ends, 44, header + bytes(8)), 0x86DD)
        return ethernet(ipv4(*ends, asked.protocol, bytes(8), fragment=185), 0x0800)
    payload = _payload(asked, number)
    if v6:
        return ethernet(ipv6(*ends, asked.protocol, payload), 0x86DD)
    return ethernet(ipv4(*ends, asked.protocol, payload), 0x0800)


def _payload(asked: Question, number: int) -> bytes:
    match asked.protocol:
        case 6:
            return tcp(FIRST_SENDER + number, asked.port)
        case 17:
            return udp(FIRST_SENDER + number, asked.port)
        case 132:
            return sctp(FIRST_SENDER + number, asked.port)
        case _:
            return icmp(asked.port, asked.code, number)


class Kernel:
    """A node's programs, asked as fast as the system call goes."""

    def __init__(self, node: Node) -> None:
        self._node = node
        maps = node.maps
        self._targets = {
            POLICY: MapTarget(maps[policy.SPEC.name], PolicyKey, PolicyEntry),
            DEVICES: MapTarget(maps[endpoints.DEVICE_SPEC.name], DeviceKey, DeviceInfo),
            IPCACHE: MapTarget(maps[ipcache.SPEC.name], IpcacheKey, IpcacheInfo),
            LXC: MapTarget(maps[endpoints.ADDRESS_SPEC.name], EndpointKey, EndpointInfo),
        }
        self._fd = {
            Direction.EGRESS: node.datapath.program("from_container"),
            Direction.INGRESS: node.datapath.program("to_container"),
        }
        self._data = ctypes.create_string_buffer(512)
        self._context = ctypes.create_string_buffer(192)
        self._call = TestRunAttributes(repeat=1, data_in=ctypes.addressof(self._data))
        self._call.ctx_size_in, self._call.ctx_in = 192, ctypes.addressof(self._context)
        node.datapath.set_monitor(MonitorFlags.VERDICT)

    def show(self, one: Scene) -> None:
        """The tables of the scene, and no connection."""
        for name, target in self._targets.items():
            wanted = dict(one.tables.table(name))
            if name == IPCACHE:
                wanted |= {prefix_key(peer.address): IpcacheInfo(peer.identity) for peer in REMOTE_PODS}
            delta = plan(wanted, target.dump())
            target.upsert(delta.upserts)
            target.delete(delta.deletes)
        for name in ("cplane_ct4", "cplane_ct6"):
            table = self._node.maps[name]
            table.delete_batch(list(table.dump()))
        self._node.records()

    def passes(self, asked: Question, frame: bytes) -> bool:
        """Whether the packet is let through."""
        came_in = 0 if asked.direction is Direction.EGRESS or asked.peer.identity == Reserved.HOST else OUTSIDE
        struct.pack_into("<II", self._context, 36, came_in, 1)  # ingress_ifindex, ifindex of struct __sk_buff
        ctypes.memmove(self._data, frame, len(frame))
        call = self._call
        call.prog_fd, call.data_size_in, call.data_size_out = self._fd[asked.direction], len(frame), 0
        bpf(Command.PROG_TEST_RUN, call, "a question")
        assert call.retval in {PASS, DROP}, call.retval
        return call.retval == PASS

    def told(self) -> list[Told]:
        """The verdict records since the last call, in order."""
        found = self._node.datapath.ring.drain(1 << 16)
        flags = found["flags"]
        columns = (
            found["verdict"],
            found["match_type"],
            (flags & RecordFlags.AUDITED) != 0,
            (flags & RecordFlags.EGRESS) != 0,
            found["cookie"],
            np.stack((found["src_identity"], found["dst_identity"]), axis=1),
        )
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [Told(*row[:5], tuple(row[5])) for row in rows]
