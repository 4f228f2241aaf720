"""Kernel records, a small world of endpoints, and stores filled with both."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import numpy as np
from hypothesis import strategies as st

from cplane.domain.policy.rule import PolicyRef
from cplane.hubble.attribution import NO_POLICY, Attribution, PolicyMeta
from cplane.hubble.encode import Encoder, frames
from cplane.hubble.endpoint import Service, Workload
from cplane.hubble.parser.getters import EndpointInfo, NetnsOwner
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from cplane.pb.cplane.flow.v1 import extension_pb2
from cplane.pb.observer import observer_pb2
from datapath.notify.records import DTYPE, EMITTED, SOCKET_DTYPE, RecordFlags, RecordType

START_NS = 1_721_815_331_000_000_000  # 2024-07-24T10:02:11Z
SEED = "0123456789abcdef0123456789abcdef"

WEB, API, DB = 24119, 31001, 777
LABELS = {
    1: ("reserved:host=",),
    2: ("reserved:world=",),
    WEB: ("k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop", "k8s:io.cilium.k8s.policy.cluster=default"),
    API: ("k8s:app=api", "k8s:tier=back", "k8s:io.kubernetes.pod.namespace=shop"),
    DB: ("k8s:app=db", "container:raw=1", "k8s:io.kubernetes.pod.namespace=data"),
}
PODS = {
    11: EndpointInfo(11, "shop", "web-7f9", "default", (Workload("web", "Deployment"),), WEB),
    12: EndpointInfo(12, "shop", "api-55c", "default", identity=API),
    13: EndpointInfo(13, "data", "db-0", "default", (Workload("db", "StatefulSet"),), DB),
}
ADDRESSES = {
    "10.244.0.11": 11,
    "10.244.0.12": 12,
    "10.244.0.13": 13,
    "fd00::11": 11,
    "fd00::12": 12,
}
NETNS = {
    1: NetnsOwner(0, 1, (ip_address("10.244.0.1").packed,)),
    5011: NetnsOwner(11, WEB, (ip_address("10.244.0.11").packed, ip_address("fd00::11").packed)),
    5012: NetnsOwner(12, API, (ip_address("10.244.0.12").packed,)),
}

ALLOW_WEB = Attribution(
    (PolicyMeta("CiliumNetworkPolicy", "shop", "allow-web", ("k8s:io.cilium.k8s.policy.name=allow-web",), 7),), ("ok",)
)
DENY_DB = Attribution(
    (
        PolicyMeta("CiliumClusterwideNetworkPolicy", "", "deny-db", ("k8s:a", "unspec:b=1"), 7),
        PolicyMeta("NetworkPolicy", "shop", "deny-db-too", (), 7),
    )
)
DEFAULT_DENY = Attribution((PolicyMeta("NetworkPolicy", "shop", "default", ("k8s:x=y",), 7),), ("nothing passes",))
AUDITED_DENY = Attribution((PolicyMeta("NetworkPolicy", "shop", "trial", ("k8s:x=z",), 7),))
COOKIES = {100: ALLOW_WEB, 200: DENY_DB}


@dataclass
class World:
    """Answers the parser's questions. What it is made of may be changed; say so with `changed`."""

    labels: dict[int, tuple[str, ...]] = field(default_factory=lambda: dict(LABELS))
    pods: dict[int, EndpointInfo] = field(default_factory=lambda: dict(PODS))
    addresses: dict[str, int] = field(default_factory=lambda: dict(ADDRESSES))
    devices: dict[int, str] = field(default_factory=lambda: {7: "lxc7", 8: "lxc8"})
    cookies: dict[int, Attribution] = field(default_factory=lambda: dict(COOKIES))
    names: dict[str, dict[int, tuple[str, ...]]] = field(default_factory=dict)
    services: dict[str, dict[tuple[int, int], Service]] = field(default_factory=dict)
    cgroups: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    netns: dict[int, NetnsOwner] = field(default_factory=lambda: dict(NETNS))
    identities: dict[str, int] = field(default_factory=lambda: {"10.244.0.13": DB})
    denying: frozenset[int] = frozenset({11, 12})
    revision: int = 0
    asked: int = 0
    asked_who: int = 0

    def changed(self) -> None:
        self.revision += 1

    def identity_labels(self, number: int) -> tuple[str, ...]:
        self.asked += 1
        return self.labels.get(number, ())

    def endpoint_by_id(self, endpoint_id: int) -> EndpointInfo | None:
        return self.pods.get(endpoint_id)

    def endpoint_by_address(self, family: int, address: bytes) -> EndpointInfo | None:
        assert len(address) == (4 if family == 4 else 16)
        return self.pods.get(self.addresses.get(str(ip_address(address)), 0))

    def names_of(self, family: int, address: bytes) -> Mapping[int, tuple[str, ...]]:
        return self.names.get(str(ip_address(address)), {})

    def services_at(self, family: int, address: bytes) -> Mapping[tuple[int, int], Service]:
        return self.services.get(str(ip_address(address)), {})

    def addresses_of_cgroup(self, cgroup: int) -> tuple[bytes, ...]:
        return self.cgroups.get(cgroup, ())

    def owner_of_netns(self, cookie: int) -> NetnsOwner | None:
        self.asked += 1
        return self.netns.get(cookie)

    def identity_at(self, family: int, address: bytes) -> int:
        return self.identities.get(str(ip_address(address)), 0)

    def identity_within(self, family: int, address: bytes) -> int:
        return self.identity_at(family, address) or 2

    def interface_name(self, index: int) -> str:
        return self.devices.get(index, "")

    def decided_by(self, cookie: int) -> Attribution:
        self.asked_who += 1
        return self.cookies.get(cookie, NO_POLICY)

    def policies_named(self, refs: Iterable[PolicyRef]) -> Attribution:
        self.asked_who += 1
        return Attribution(tuple(PolicyMeta(*ref, ("k8s:l7=",), 7) for ref in refs))

    def denied_by_default(self, endpoint_id: int, *, egress: bool, audited: bool) -> Attribution:
        self.asked_who += 1
        if endpoint_id not in self.denying:
            return NO_POLICY
        return AUDITED_DENY if audited and not egress else DEFAULT_DENY


def records(*rows: Mapping[str, Any]) -> np.ndarray:
    """Records with these fields; `src`/`dst` are address texts. A TCP SYN of web to api, traced, otherwise."""
    out = np.zeros(len(rows), DTYPE)
    for number, given in enumerate(rows):
        row: dict[str, Any] = {
            "time_ns": number * 1_000_000,
            "type": RecordType.TRACE,
            "flags": RecordFlags.REPLY_KNOWN,
            "protocol": 6,
            "tcp_flags": 2,
            "src": "10.244.0.11",
            "dst": "10.244.0.12",
            "sport": 43512,
            "dport": 80,
            "src_identity": WEB,
            "dst_identity": API,
            "src_lxc": 11,
            "dst_lxc": 12,
            "ifindex": 7,
            "smac": bytes.fromhex("02000000000b"),
            "dmac": bytes.fromhex("02000000000c"),
            **given,
        }
        for text, name in (("src", "saddr"), ("dst", "daddr")):
            address = row.pop(text)
            if address:
                packed = ip_address(address).packed
                row[name] = packed.ljust(16, b"\0")
                if len(packed) == 16:
                    row["flags"] |= RecordFlags.IPV6
        for name, value in row.items():
            kind = out if name in DTYPE.fields else out.view(SOCKET_DTYPE)
            kind[number][name] = np.void(value) if isinstance(value, bytes) else value
    return out


def store_of(*batches: np.ndarray, capacity: int = 1024, world: World | None = None) -> FlowStore:
    """A store that has taken the batches, their clock starting at START_NS."""
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=capacity)
    parser = Parser(store, world or World())
    for batch in batches:
        parser.ingest(batch, START_NS)
    return store


def responses(store: FlowStore, encoder: Encoder) -> list[observer_pb2.GetFlowsResponse]:
    """Everything in a store that has not wrapped, through an encoder."""
    span = store.ring.span(store.ring.oldest, store.ring.written)
    data = encoder.encode(span, np.arange(len(span)))
    found = [observer_pb2.GetFlowsResponse.FromString(message) for message in frames(data)]
    for response in found:
        if response.flow.HasField("extensions"):  # an Any holds bytes, which differ for equal messages
            origin = extension_pb2.Origin.FromString(response.flow.extensions.value)
            response.flow.extensions.value = origin.SerializeToString()
    return found


_V4 = ["10.244.0.11", "10.244.0.12", "10.244.0.13", "192.0.2.7", "0.0.0.0"]
_V6 = ["fd00::11", "fd00::12", "2001:db8::7", "::"]


@st.composite
def record_batches(draw: st.DrawFn, max_size: int = 12) -> np.ndarray:
    """Any records that the kernel might write, about few endpoints, so that some have much in common."""

    def socket() -> dict[str, Any]:
        return {
            "socket_cookie": draw(st.sampled_from([0, 1, 4242, 2**32, 2**64 - 1])),
            "cgroup_id": draw(st.sampled_from([0, 7, 2**63])),
            "netns_cookie": draw(st.sampled_from([1, 5011, 5012])),
        }

    def row() -> dict[str, Any]:
        addresses = draw(st.sampled_from([_V4, _V6]))
        ends = [(0, 0), (0, 1), (0, 2), (11, WEB), (12, API), (13, DB), (99, 4242)]
        source, target = draw(st.sampled_from(ends)), draw(st.sampled_from(ends))
        kind = draw(st.sampled_from(sorted(EMITTED)))
        return {
            "time_ns": draw(st.integers(0, 10**12)),
            "position": draw(st.integers(0, 2**40)),
            "type": kind,
            "subtype": draw(
                st.sampled_from([132, 133, 155, 181, 255]) if kind == 1 else st.sampled_from([0, 2, 3, 5, 11])
            ),
            "flags": draw(st.integers(0, 15)) * 2,
            "cookie": draw(st.sampled_from([0, 0, 100, 200, 300])),
            "match_type": draw(st.integers(0, 6)),
            "trace_reason": draw(st.integers(0, 6)),
            "protocol": draw(st.sampled_from([6, 6, 17, 1, 58, 132, 112, 0])),
            "tcp_flags": draw(st.sampled_from([0, 2, 16, 18, 25, 255])),
            "file": draw(st.sampled_from([0, 2, 109, 250])),
            "line": draw(st.integers(0, 65535)),
            "src": draw(st.sampled_from(addresses)),
            "dst": draw(st.sampled_from(addresses)),
            "sport": draw(st.sampled_from([0, 53, 80, 16384, 65535])),
            "dport": draw(st.sampled_from([0, 53, 80, 443, 43512])),
            "src_lxc": source[0],
            "src_identity": source[1],
            "dst_lxc": target[0],
            "dst_identity": target[1],
            "ifindex": draw(st.sampled_from([0, 7, 8, 9])),
            "verdict": draw(st.sampled_from([-133, -157, -181, -189, 0, 0, 10001])),
            "icmp_type": draw(st.sampled_from([0, 3, 8, 128, 135, 200])),
            "icmp_code": draw(st.sampled_from([0, 1, 4, 77])),
            "smac": draw(st.sampled_from([bytes(6), bytes.fromhex("020000000b00")])),
        } | (socket() if kind == RecordType.SOCKET else {})

    return records(*(row() for _ in range(draw(st.integers(1, max_size)))))


def rows_matching(mask: Sequence[bool]) -> list[int]:
    """Numbers of the rows that a mask selects."""
    return [number for number, chosen in enumerate(mask) if chosen]
