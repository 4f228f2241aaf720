"""What the parser asks about the packets' ends and judges; the agent answers from its state."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cplane.domain.policy.rule import PolicyRef
from cplane.hubble.attribution import Attribution
from cplane.hubble.endpoint import Service, Workload

ANY_PROTOCOL: Final = 0


@dataclass(frozen=True, slots=True)
class EndpointInfo:
    """A pod that the node knows. `endpoint_id` is 0 for pods of other nodes, `identity` where it is not known."""

    endpoint_id: int
    namespace: str = ""
    pod_name: str = ""
    cluster: str = ""
    workloads: tuple[Workload, ...] = ()
    identity: int = 0


@dataclass(frozen=True, slots=True)
class NetnsOwner:
    """Whose network namespace it is: a local endpoint, or with `endpoint_id` 0 the node itself.

    `addresses` have 4 or 16 bytes.
    """

    endpoint_id: int
    identity: int
    addresses: tuple[bytes, ...] = ()


class Getters(Protocol):
    """Lookups in the state of now. They must be cheap and never wait."""

    @property
    def revision(self) -> int:
        """Changes whenever any answer below may have changed; what was asked under another one is forgotten."""
        ...

    def identity_labels(self, number: int) -> tuple[str, ...]:
        """Labels of an identity as `source:key=value`; empty for an unknown one."""
        ...

    def endpoint_by_id(self, endpoint_id: int) -> EndpointInfo | None:
        """The local endpoint of that id."""
        ...

    def endpoint_by_address(self, family: int, address: bytes) -> EndpointInfo | None:
        """The pod behind an address; `family` is 4 or 6, `address` has 4 or 16 bytes."""
        ...

    def names_of(self, family: int, address: bytes) -> Mapping[int, tuple[str, ...]]:
        """By local endpoint, the names by which it got to know the address, sorted; empty where nobody asked for it."""
        ...

    def services_at(self, family: int, address: bytes) -> Mapping[tuple[int, int], Service]:
        """By protocol (or ANY_PROTOCOL) and port, the services of the address; empty for most addresses."""
        ...

    def addresses_of_cgroup(self, cgroup: int) -> tuple[bytes, ...]:
        """Addresses (4 or 16 bytes) of the pod that a control group belongs to; none for an unknown one."""
        ...

    def owner_of_netns(self, cookie: int) -> NetnsOwner | None:
        """Whose network namespace has this cookie; None for a stranger's."""
        ...

    def identity_at(self, family: int, address: bytes) -> int:
        """The identity of exactly this address, local or not; 0 where only prefixes around it are known."""
        ...

    def identity_within(self, family: int, address: bytes) -> int:
        """The identity that the kernel has for the address, which may be that of a prefix around it; 0: unknown."""
        ...

    def interface_name(self, index: int) -> str:
        """Name of the device; empty for an unknown one."""
        ...

    def decided_by(self, cookie: int) -> Attribution:
        """The rules that the cookie of a policy entry stands for; nobody's for an unknown one."""
        ...

    def policies_named(self, refs: Iterable[PolicyRef]) -> Attribution:
        """The policies of these names; without labels where there is none any more."""
        ...

    def denied_by_default(self, endpoint_id: int, *, egress: bool, audited: bool) -> Attribution:
        """The rules that ask for default deny at a local endpoint; nobody's where no rule does.

        `audited`: the packet passed all the same, so they may be rules that are only audited.
        """
        ...
