"""Facts about endpoints: the pods of this node."""

import msgspec


class EndpointCreated(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A container's interface is ours to serve. Addresses are empty where the family is off; MACs are `aa:bb:…`.

    `identity` is the security identity of `labels` after the label filter; the labels here are all of them.
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


class EndpointRelabelled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The endpoint's labels are now these, and its identity follows them."""

    endpoint: int
    labels: tuple[str, ...]
    identity: int


class EndpointDeleted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The endpoint is gone."""

    endpoint: int
