"""Endpoints: the pods of a node, each one interface of one container."""

from collections.abc import Container
from dataclasses import dataclass
from typing import Final, NewType

from cplane.domain.identity import NumericIdentity
from cplane.domain.labels import LabelSet
from cplane.domain.numbers import next_free

EndpointId = NewType("EndpointId", int)

MIN_ID: Final = 1
MAX_ID: Final = 65_535  # sixteen bits in every map and record


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Addresses are text, empty where the family is off; MACs are `aa:bb:cc:dd:ee:ff`; labels are all of them.

    `named_ports` are `name=number/protocol`, sorted; `policy` 0 is that of the identity. `audit`: nothing is dropped.
    `netns_cookie` is the kernel's number of the network namespace, 0 where it is not known.
    """

    id: EndpointId
    container_id: str
    container_interface: str
    netns: str
    host_interface: str
    host_ifindex: int
    mac: str
    host_mac: str
    ipv4: str
    ipv6: str
    namespace: str
    pod: str
    pod_uid: str
    labels: LabelSet
    identity: NumericIdentity
    named_ports: tuple[str, ...] = ()
    policy: int = 0
    audit: bool = False
    netns_cookie: int = 0

    @property
    def attachment(self) -> tuple[str, str]:
        """What a container runtime calls it: container id and interface name."""
        return (self.container_id, self.container_interface)

    @property
    def policy_id(self) -> int:
        """The number of the policy that it obeys."""
        return self.policy or self.identity

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses it has, IPv4 first."""
        return tuple(a for a in (self.ipv4, self.ipv6) if a)


def next_free_id(taken: Container[int], last: int) -> EndpointId | None:
    """The number of the next endpoint: see next_free."""
    found = next_free(last, MIN_ID, MAX_ID, taken)
    return None if found is None else EndpointId(found)
