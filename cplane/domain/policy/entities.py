"""Entities: peers that have a name of their own in the language."""

from collections.abc import Mapping
from typing import Final

from cplane.domain.identity import Reserved
from cplane.domain.labels import CLUSTER_KEY, K8S, RESERVED
from cplane.domain.selectors import LabelSelector, Operator, Requirement


def _reserved(*which: Reserved) -> tuple[LabelSelector, ...]:
    return tuple(LabelSelector((Requirement(RESERVED, one.label_key, Operator.EXISTS),)) for one in which)


_FIXED: Final[Mapping[str, tuple[LabelSelector, ...]]] = {
    "all": (LabelSelector(),),
    "none": (),
    "world": _reserved(Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6),
    "world-ipv4": _reserved(Reserved.WORLD_IPV4),
    "world-ipv6": _reserved(Reserved.WORLD_IPV6),
    "host": _reserved(Reserved.HOST),
    "remote-node": _reserved(Reserved.REMOTE_NODE),
    "kube-apiserver": _reserved(Reserved.KUBE_APISERVER),
    "health": _reserved(Reserved.HEALTH),
    "init": _reserved(Reserved.INIT),
    "ingress": _reserved(Reserved.INGRESS),
    "unmanaged": _reserved(Reserved.UNMANAGED),
}
_IN_CLUSTER: Final = _reserved(
    Reserved.HOST,
    Reserved.REMOTE_NODE,
    Reserved.INIT,
    Reserved.INGRESS,
    Reserved.HEALTH,
    Reserved.UNMANAGED,
    Reserved.KUBE_APISERVER,
)

ENTITIES: Final = (*_FIXED, "cluster")


def entity_selectors(entity: str, cluster: str) -> tuple[LabelSelector, ...] | None:
    """What the entity selects, in the cluster of that name; None where there is no such entity."""
    if entity == "cluster":
        local = Requirement(K8S, CLUSTER_KEY, Operator.IN, (cluster,))
        return (*_IN_CLUSTER, LabelSelector((local,)))
    return _FIXED.get(entity)
