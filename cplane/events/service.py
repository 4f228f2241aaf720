"""Facts about services and their backends. Numbers are given when they are decided, so that a replay has the same."""

import msgspec


class FrontendRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A frontend and its number; see domain.service.Frontend. `protocol` is `TCP`, `UDP` or `SCTP`."""

    id: int
    address: str
    port: int
    protocol: str
    kind: str
    port_name: str = ""


class ServiceUpserted(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The service is described so now; see domain.service.Service. Labels and selector are `key=value`."""

    namespace: str
    name: str
    frontends: tuple[FrontendRecord, ...]
    labels: tuple[str, ...] = ()
    selector: tuple[str, ...] = ()
    affinity_s: int = 0
    external_local: bool = False
    internal_local: bool = False
    source_ranges: tuple[str, ...] = ()
    ranges_deny: bool = False
    algorithm: str = ""
    forwarding: str = ""
    health_check_port: int = 0
    topology: bool = False
    drop: bool = False
    skip_backends: bool = False
    health_path: str = ""


class ServiceDeleted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The service does not exist any more."""

    namespace: str
    name: str


class BackendRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A backend and its number, which it has wherever it is named; see domain.service.Backend."""

    id: int
    address: str
    port: int
    protocol: str
    port_name: str = ""
    state: str = "active"
    weight: int = 1
    node: str = ""
    zones: tuple[str, ...] = ()


class BackendsChanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """These are all backends that the source knows of the service; none: the source is gone."""

    namespace: str
    service: str
    source: str
    backends: tuple[BackendRecord, ...]


class ServiceOptionsChanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How services are served where they do not say themselves.

    `algorithm` is `random` or `maglev`, `forwarding` is `snat`, `dsr` or `hybrid`; `maglev_seed` is base64 of twelve
    bytes. With `external_cluster_ip` cluster addresses are served to who comes from outside, too. `zone` is the node's,
    for services that prefer backends of the client's zone.
    """

    algorithm: str
    forwarding: str
    maglev_size: int
    maglev_seed: str
    external_cluster_ip: bool
    zone: str


class BackendStateChanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whatever its sources say, the backend is in this state, until it is gone; `active`: what they say, again."""

    backend: int
    address: str
    port: int
    protocol: str
    state: str


ServiceEvent = ServiceUpserted | ServiceDeleted | BackendsChanged | BackendStateChanged | ServiceOptionsChanged
"""Any fact about services."""
