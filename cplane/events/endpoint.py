"""Facts about endpoints: the pods of this node."""

import msgspec


class EndpointCreated(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A container's interface is ours to serve. Addresses are empty where the family is off; MACs are `aa:bb:…`.

    `identity` is the security identity of `labels` after the label filter; the labels here are all of them.
    `named_ports` are `name=number/protocol`, sorted. `policy` is the policy that it obeys: 0 is that of its identity,
    others are of endpoints that have other ports under the same names. `audit`: see EndpointConfigured.
    `netns_cookie` is the kernel's number of the network namespace while the machine runs; 0: not known.
    """

    endpoint: int
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
    labels: tuple[str, ...]
    identity: int
    named_ports: tuple[str, ...] = ()
    policy: int = 0
    audit: bool = False
    netns_cookie: int = 0


class EndpointRelabelled(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The endpoint's labels are now these, and its identity and policy follow them."""

    endpoint: int
    labels: tuple[str, ...]
    identity: int
    policy: int = 0


class EndpointConfigured(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """With `audit`, what policies would drop of the endpoint's traffic passes, with the verdict AUDIT."""

    endpoint: int
    audit: bool


class EndpointDeleted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The endpoint is gone."""

    endpoint: int
