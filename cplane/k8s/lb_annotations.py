"""Annotations of services that say how they are served."""

from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

from cplane.domain.labels import K8S, Label, LabelSet
from cplane.domain.policy.document import Place, did_you_mean, shown
from cplane.domain.selectors import parse_selector
from cplane.domain.service import wrong_path
from cplane.k8s.lb_reading import CILIUM_PREFIX, Here, Notes, note

_TOPOLOGY: Final = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode")
_RANGES: Final = "service.beta.kubernetes.io/load-balancer-source-ranges"
_ADDRESSES: Final = ("lbipam.cilium.io/", "io.cilium/lb-ipam-")
_OURS: Final = "service.cplane.io/"
HEALTH_PATH: Final = f"{_OURS}health-path"
_ALONE: Final = "it is about several clusters, and here is one: no effect"
_NO_EFFECT: Final = {
    "affinity": _ALONE,
    "global": _ALONE,
    "global-sync-endpoint-slices": _ALONE,
    "shared": _ALONE,
    "proxy-delegation": "packets are not handed to another proxy here: no effect",
}
_READ: Final = ("forwarding-mode", "lb-algorithm", "node", "node-selector", "src-ranges-policy", "type")
_KNOWN: Final = (*_READ, *_NO_EFFECT)


class Said(NamedTuple):
    """What annotations say. `here`: the service is served by this node. `type` is the only one to be served."""

    here: bool
    type: str
    algorithm: str
    forwarding: str
    ranges_deny: bool
    topology: bool
    health_path: str
    source_ranges: Iterable[tuple[Place, str]]


def read_annotations(place: Place | None, types: Collection[str], here: Here, notes: Notes) -> Said:
    """What the annotations of a service say; unknown ones are refused where they look like Cilium's or ours."""
    found: dict[str, tuple[Place, str]] = {}
    for key, one in place.entries() if place is not None else ():
        value = one.text()
        if value is not None:
            found[key] = one, value
            _look(key, one, notes)
    ours = {key.removeprefix(CILIUM_PREFIX): held for key, held in found.items() if key.startswith(CILIUM_PREFIX)}
    topology = next((found[key][1] for key in _TOPOLOGY if key in found), "")
    ranges = found.get(_RANGES)
    return Said(
        here=_is_here(ours, here, notes),
        type=_one_of(ours.get("type"), types, str),
        algorithm=_one_of(ours.get("lb-algorithm"), ("random", "maglev"), str.lower),
        forwarding=_one_of(ours.get("forwarding-mode"), ("snat", "dsr"), str.lower),
        ranges_deny=_one_of(ours.get("src-ranges-policy"), ("allow", "deny"), str.lower) == "deny",
        topology=topology not in {"", "disabled", "Disabled"},
        health_path=_path(found.get(HEALTH_PATH)),
        source_ranges=[(ranges[0], one) for one in ranges[1].split(",") if one.strip()] if ranges else (),
    )


def _look(key: str, place: Place, notes: Notes) -> None:
    if key.startswith(_ADDRESSES):
        note(notes, place, "addresses are not given here: status.loadBalancer.ingress is what counts")
    if key.startswith(_OURS) and key != HEALTH_PATH:
        place.refuse(f"unknown annotation{did_you_mean(key, (HEALTH_PATH,))}")
    if not key.startswith(CILIUM_PREFIX):
        return
    short = key.removeprefix(CILIUM_PREFIX)
    if short in _NO_EFFECT:
        note(notes, place, _NO_EFFECT[short])
    elif short not in _READ:
        place.refuse(f"unknown annotation{did_you_mean(short, _KNOWN)}")


def _one_of(held: tuple[Place, str] | None, options: Collection[str], spell: Callable[[str], str]) -> str:
    if held is None:
        return ""
    place, written = held
    if spell(written) in options:
        return spell(written)
    place.refuse(f"unknown value {shown(written)}{did_you_mean(written, options)}; write {', '.join(options)}")
    return ""


def _path(held: tuple[Place, str] | None) -> str:
    if held is None:
        return ""
    place, written = held
    if wrong := wrong_path(written):
        place.refuse(wrong)
        return ""
    return written


def _is_here(ours: dict[str, tuple[Place, str]], here: Here, notes: Notes) -> bool:
    """Whether this node is one of those that serve it; as long as nobody knows its labels, it is not."""
    held = ours.get("node-selector") or ours.get("node")
    if held is None:
        return True
    place, written = held
    try:
        selector = parse_selector(written) if "node-selector" in ours else None
    except ValueError as error:
        place.refuse(str(error))
        return False
    if here.labels is None:
        note(notes, place, "the labels of this node are not known: give its Node too; the service is not served")
        return False
    if selector is None:
        return here.labels.get(f"{CILIUM_PREFIX}node") == written
    return selector.matches(LabelSet(tuple(Label(key, K8S, value) for key, value in here.labels.items())))
