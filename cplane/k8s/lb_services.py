"""Services of Kubernetes: where clients go, and how they are served."""

from typing import Final, NamedTuple

from cplane.domain.cidr import parse_prefix
from cplane.domain.policy.document import Fields, Place, shown
from cplane.domain.ports import PORT_MAX
from cplane.domain.service import (
    Algorithm,
    Forwarding,
    Service,
    ServiceName,
)
from cplane.k8s.lb_annotations import Said, read_annotations
from cplane.k8s.lb_frontends import LOAD_BALANCER, TYPES, ReadFrontends
from cplane.k8s.lb_reading import Here, Notes, choice, note, read_metadata
from cplane.k8s.objects import flag, items, number, text, texts

HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
_POLICIES: Final = ("Cluster", "Local")
_AFFINITY_S: Final = 10_800
_AFFINITY_MAX_S: Final = 86_400

_DOCUMENT: Final = Fields(frozenset({"apiVersion", "kind", "metadata", "spec", "status"}))
_SPEC: Final = Fields(
    frozenset(
        {
            "allocateLoadBalancerNodePorts",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "ports",
            "publishNotReadyAddresses",
            "selector",
            "sessionAffinity",
            "sessionAffinityConfig",
            "trafficDistribution",
            "type",
        }
    ),
    {
        "ipFamily": "removed from Kubernetes: write ipFamilies",
        "topologyKeys": "removed from Kubernetes: write trafficDistribution",
    },
)
_AFFINITY: Final = Fields(frozenset({"clientIP"}))
_CLIENT: Final = Fields(frozenset({"timeoutSeconds"}))


class ReadService(NamedTuple):
    """A service; `publishes_unready`: its endpoints are used before they are ready."""

    service: Service
    publishes_unready: bool


def read_service(name: ServiceName, place: Place, here: Here, notes: Notes) -> ReadService:
    """The service that a manifest is. Without frontends: it has none, or none on this node."""
    fields = place.fields(_DOCUMENT) or {}
    metadata = read_metadata(place, fields)
    if "spec" not in fields:
        place.refuse("spec is missing: write at least spec.ports")
    spec = (fields["spec"].fields(_SPEC) or {}) if "spec" in fields else {}
    labels = texts(metadata.get("labels"))
    for step in ("externalName", "loadBalancerClass"):
        text(spec.get(step))
    flag(spec.get("allocateLoadBalancerNodePorts"), default=True)
    said = read_annotations(metadata.get("annotations"), TYPES[:3], here, notes)
    frontends = ReadFrontends(spec, fields.get("status"), said, here, notes)
    headless = frontends.is_headless or HEADLESS_LABEL in labels
    external, internal = (
        choice(spec.get(f"{step}TrafficPolicy"), _POLICIES, "Cluster") for step in ("external", "internal")
    )
    made = Service(
        name=name,
        frontends=() if headless or not said.here else frontends.all(),
        labels=_pairs(labels),
        selector=_pairs(texts(spec.get("selector"))),
        affinity_s=_affinity(spec),
        external_local=external == "Local",
        internal_local=internal == "Local",
        source_ranges=_source_ranges(spec, frontends.type, said),
        ranges_deny=said.ranges_deny,
        algorithm=Algorithm(said.algorithm),
        forwarding=Forwarding(said.forwarding),
        health_check_port=_health_check_port(spec, frontends.type, external),
        topology=(_distributes(spec, notes) or said.topology) and internal != "Local",
        health_path=said.health_path,
    )
    return ReadService(made, flag(spec.get("publishNotReadyAddresses"), default=False))


def _pairs(held: dict[str, str]) -> tuple[str, ...]:
    return tuple(sorted(f"{key}={value}" for key, value in held.items()))


def _affinity(spec: dict[str, Place]) -> int:
    """Seconds for which a client keeps its backend."""
    wanted = choice(spec.get("sessionAffinity"), ("None", "ClientIP"), "None") == "ClientIP"
    place = spec.get("sessionAffinityConfig")
    if place is None:
        return _AFFINITY_S if wanted else 0
    if not wanted:
        place.refuse("without sessionAffinity: ClientIP it means nothing: write that, or remove it")
    client = (place.fields(_AFFINITY) or {}).get("clientIP")
    fields = (client.fields(_CLIENT) or {}) if client is not None else {}
    found = number(fields.get("timeoutSeconds"), 1, _AFFINITY_MAX_S, _AFFINITY_S)
    return found if wanted else 0


def _source_ranges(spec: dict[str, Place], kind: str, said: Said) -> tuple[str, ...]:
    place = spec.get("loadBalancerSourceRanges")
    if place is not None and kind != LOAD_BALANCER and place.value:
        place.refuse("only for type LoadBalancer: who may come to other addresses is for policies to say")
    written = list(items(place))
    texts_ = [(one, one.text()) for one in written] if written else said.source_ranges
    found: dict[str, None] = {}
    for one, prefix in texts_:
        if prefix is None:
            continue
        try:
            found[str(parse_prefix(prefix.strip()))] = None
        except ValueError as error:
            one.refuse(f"{shown(prefix)} is not a prefix: {error}; write 10.0.0.0/8 or 2001:db8::/32")
    return tuple(found)


def _health_check_port(spec: dict[str, Place], kind: str, external: str) -> int:
    found = number(spec.get("healthCheckNodePort"), 0, PORT_MAX)
    if found and (kind != LOAD_BALANCER or external != "Local"):
        spec["healthCheckNodePort"].refuse("only for type LoadBalancer with externalTrafficPolicy: Local")
        return 0
    return found


def _distributes(spec: dict[str, Place], notes: Notes) -> bool:
    """Whether backends near the client are preferred; near is the same zone."""
    place = spec.get("trafficDistribution")
    wanted = text(place)
    if place is not None and wanted == "PreferSameNode":
        note(notes, place, "backends of the same zone are preferred, not those of the same node")
    elif place is not None and wanted and wanted not in {"PreferClose", "PreferSameZone"}:
        note(notes, place, f"{shown(wanted)} is not known here, and has no effect")
        return False
    return bool(wanted)
