"""Security identities: the numbers that stand for label sets.

The number space, scopes and reserved numbers are Cilium's, so that maps, flows and tools agree.
"""

from enum import IntEnum
from typing import Final, NewType

from cplane.domain.cidr import Prefix, cidr_key, cidr_of_key
from cplane.domain.labels import CIDR, FQDN, RESERVED, Label, LabelSet

NumericIdentity = NewType("NumericIdentity", int)

UNKNOWN: Final = NumericIdentity(0)
CLUSTER_MIN: Final = 256
CLUSTER_MAX: Final = 65535
SCOPE_LOCAL: Final = 1 << 24
SCOPE_MASK: Final = 0xFF << 24
LOCAL_MIN: Final = SCOPE_LOCAL | 1
LOCAL_MAX: Final = SCOPE_LOCAL | 0xFFFFFF


class Reserved(IntEnum):
    """Identities whose number and label are fixed for ever."""

    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10

    @property
    def label_key(self) -> str:
        """The key under source `reserved`, for example `world-ipv4`."""
        return self.name.lower().replace("_", "-")

    @property
    def labels(self) -> LabelSet:
        """The label set that this number stands for."""
        own = [Label(self.label_key, RESERVED)]
        if self is Reserved.KUBE_APISERVER:
            own.append(Label(Reserved.REMOTE_NODE.label_key, RESERVED))
        return LabelSet(tuple(own))


RESERVED_BY_NUMBER: Final = {NumericIdentity(r.value): r for r in Reserved}


def is_local(number: NumericIdentity) -> bool:
    """Whether the number is meaningful on this node only (CIDR identities)."""
    return number & SCOPE_MASK == SCOPE_LOCAL


def world_of(family: int, *, dual_stack: bool) -> Reserved:
    """The world identity for addresses of IP `family` (4 or 6)."""
    if not dual_stack:
        return Reserved.WORLD
    return Reserved.WORLD_IPV4 if family == 4 else Reserved.WORLD_IPV6


def cidr_label(prefix: Prefix) -> Label:
    """`cidr:10.0.0.0/24`."""
    return Label(cidr_key(prefix), CIDR)


def cidr_of_label(label: Label) -> Prefix | None:
    """The prefix that a label of source `cidr` names; None for other labels."""
    return cidr_of_key(label.key) if label.source == CIDR else None


def prefix_of(labels: LabelSet) -> Prefix | None:
    """The prefix that an identity with these labels stands for; None: it stands for no prefix."""
    return next((prefix for label in labels if (prefix := cidr_of_label(label)) is not None), None)


def is_of_names(labels: LabelSet) -> bool:
    """Whether an identity with these labels is that of single addresses, for names that they were resolved from.

    The prefix that it stands for is around them; it has an identity of its own.
    """
    return any(label.source == FQDN for label in labels)


def cidr_labels(prefix: Prefix, *, dual_stack: bool) -> LabelSet:
    """The labels of an identity for a prefix outside the cluster; /0 is the world itself."""
    world = Label(world_of(prefix.version, dual_stack=dual_stack).label_key, RESERVED)
    if prefix.prefixlen == 0:
        return LabelSet((world,))
    return LabelSet((cidr_label(prefix), world))
