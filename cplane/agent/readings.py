"""What an agent's /metrics says, read from its state when asked. Cilium's names where the meaning is the same."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from cplane.agent.requests import Requests
from cplane.domain.identity import RESERVED_BY_NUMBER, NumericIdentity, is_local
from cplane.domain.policy import Policy
from cplane.domain.verdict import Direction
from cplane.engine.engine import Engine
from cplane.hubble.store import FlowStore
from cplane.hubble.texts import drop_reason
from cplane.projections.tables import PROGRAMS
from datapath.maps.metrics import REASON_FORWARDED, MetricsDirection, MetricsKey, MetricsValue
from datapath.maps.policy import ENTRIES_PER_POLICY

_ENFORCEMENT: Final = {
    (False, False): "none",
    (True, False): "ingress",
    (False, True): "egress",
    (True, True): "both",
}
Traffic = Mapping[MetricsKey, MetricsValue]


def of_engine(engine: Engine, version: str) -> list[Metric]:
    """Endpoints, policies, identities, addresses, and how far the log, the tables and the kernel are."""
    return [
        _labelled("cilium_version", "Version of the agent.", "version", {version: 1}),
        *_world(engine),
        *_log(engine),
    ]


def of_traffic(traffic: Traffic) -> list[Metric]:
    """Packets and bytes by what became of them, since the maps were made."""
    drops = CounterMetricFamily("cilium_drop_count_total", "Packets dropped.", labels=("reason", "direction"))
    dropped = CounterMetricFamily("cilium_drop_bytes_total", "Bytes dropped.", labels=("reason", "direction"))
    forwards = CounterMetricFamily("cilium_forward_count_total", "Packets forwarded.", labels=("direction",))
    forwarded = CounterMetricFamily("cilium_forward_bytes_total", "Bytes forwarded.", labels=("direction",))
    for key, value in sorted(traffic.items()):
        direction = MetricsDirection(key.direction).name
        if key.reason == REASON_FORWARDED:
            forwards.add_metric((direction,), value.packets)
            forwarded.add_metric((direction,), value.byte_count)
        else:
            drops.add_metric((drop_reason(key.reason), direction), value.packets)
            dropped.add_metric((drop_reason(key.reason), direction), value.byte_count)
    return [drops, dropped, forwards, forwarded]


def of_requests(requests: Requests) -> Iterator[Metric]:
    """What became of requests of layer 7, and how many proxy ports there are."""
    judged = CounterMetricFamily("cilium_policy_l7_total", "Requests by outcome.", labels=("rule", "proxy_type"))
    for labels, count in sorted(requests.counted.items()):
        judged.add_metric(labels, count)
    redirects = GaugeMetricFamily("cilium_proxy_redirects", "Proxy ports in use.", labels=("protocol",))
    for parser, count in sorted(requests.redirects().items()):
        redirects.add_metric((parser,), count)
    lost = "Records of requests that proxies had no room for."
    yield from (judged, redirects, CounterMetricFamily("cplane_requests_lost_total", lost, value=requests.lost))


def of_flows(
    flows: FlowStore, lost: Callable[[], int], debug_lost: Callable[[], int] | None = None
) -> Iterator[Metric]:
    """The flow ring, and what never came into it; `debug_lost` None: there are no programs to debug."""
    ring = flows.ring
    yield from (
        CounterMetricFamily("cplane_flows_total", "Flows that were recorded.", ring.written),
        _gauge("cplane_flow_ring_flows", "Flows that can be asked for.", len(ring)),
        _gauge("cplane_flow_ring_capacity", "Flows that can be kept.", ring.capacity),
        CounterMetricFamily(
            "cplane_flows_missed_total", "Flows that readers missed because they were slow.", ring.overwritten_unread
        ),
        CounterMetricFamily(
            "cplane_monitor_lost_total", "Records that the kernel could not write since the maps were made.", lost()
        ),
    )
    if debug_lost is not None:
        yield CounterMetricFamily(
            "cplane_debug_lost_total", "Steps of programs that found no room since the maps were made.", debug_lost()
        )


def _world(engine: Engine) -> Iterator[Metric]:
    world = engine.world
    count = len(world.endpoints)
    yield _gauge("cilium_endpoint", "Endpoints of this node.", count)
    yield _gauge("cilium_endpoint_count", "Endpoints of this node, as releases before 1.16 called it.", count)
    ready = engine.in_sync and engine.applied >= engine.head
    states = {"ready": count if ready else 0, "regenerating": 0 if ready else count}
    yield _labelled("cilium_endpoint_state", "Endpoints by state.", "endpoint_state", states)
    policies = sum(isinstance(one, Policy) for one in world.policies.values())
    yield _gauge("cilium_policy", "Policies.", policies)
    yield _gauge("cilium_policy_max_revision", "How often policies changed.", world.policy_revision)
    yield _labelled(
        "cilium_policy_endpoint_enforcement_status", "Endpoints by enforcement.", "enforcement", _enforcement(engine)
    )
    identities = Counter("node_local" if is_local(NumericIdentity(n)) else "cluster_local" for n in world.identities)
    identities["reserved"] = len(RESERVED_BY_NUMBER)
    yield _labelled("cilium_identity", "Identities by type.", "type", identities)
    pools = world.pools.values()
    capacity = {pool.name: float(ip_network(pool.cidr).num_addresses - len(pool.reserved)) for pool in pools}
    yield _labelled("cilium_ipam_capacity", "Addresses that pods can have.", "family", capacity)
    yield _labelled(
        "cilium_ip_addresses", "Addresses that pods have.", "family", {pool.name: len(pool.taken) for pool in pools}
    )


def _enforcement(engine: Engine) -> Counter[str]:
    """Endpoints by the directions in which what no rule allows is dropped; `audit-`: is only told."""
    found: Counter[str] = Counter(dict.fromkeys(_ENFORCEMENT.values(), 0))
    for endpoint in engine.world.endpoints.values():
        state = engine.policies.state(endpoint.policy_id)
        ways = (False, False)
        if state is not None:
            ways = (state.is_enforced(Direction.INGRESS), state.is_enforced(Direction.EGRESS))
        prefix = "audit-" if any(ways) and (endpoint.audit or engine.world.options.policy_audit) else ""
        found[f"{prefix}{_ENFORCEMENT[ways]}"] += 1
    return found


def _log(engine: Engine) -> Iterator[Metric]:
    yield _gauge("cplane_log_head_position", "Position of the last event.", engine.head)
    yield _gauge("cplane_applied_position", "Position whose tables are all in the kernel.", engine.applied)
    yield _gauge("cplane_applied_lag", "Events that are not in the kernel yet.", engine.head - engine.applied)
    yield _gauge("cplane_in_sync", "1 while the kernel has every table.", int(engine.in_sync))
    yield CounterMetricFamily(
        "cplane_reconcile_failures_total", "How often the kernel could not be written.", engine.failures
    )
    room = engine.capacity
    pressure = {name: len(engine.desired(name)) / room[name] for name in room if name != PROGRAMS}
    yield _labelled("cilium_bpf_map_pressure", "How full a map is, from 0 to 1.", "map_name", pressure)
    fullest = max(engine.policies.entries_by_policy().values(), default=0)
    yield _gauge(
        "cplane_policy_pressure",
        "How full the fullest policy of an identity is, from 0 to 1.",
        fullest / ENTRIES_PER_POLICY,
    )


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value)


def _labelled(name: str, told: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, told, labels=(label,))
    for key, value in sorted(values.items()):
        family.add_metric((key,), value)
    return family
