"""What the rows of frontends say of clients outside."""

import pytest

from cplane.domain.service import ServiceOptions
from cplane.events.service import BackendRecord, BackendsChanged, FrontendRecord, ServiceOptionsChanged, ServiceUpserted
from cplane.projections import services
from cplane.projections.services import ServiceProjection
from datapath.maps.lb import LbFlags


def flags(protocol: str, *, forwarding: str = "", node: str = "snat", kind: str = "LoadBalancer") -> LbFlags:
    """Those of the one frontend of a service, on a node that forwards as `node` says."""
    made = ServiceProjection()
    usual = ServiceOptions()
    made.apply(
        ServiceOptionsChanged(
            algorithm=usual.algorithm,
            forwarding=node,
            maglev_size=usual.maglev_size,
            maglev_seed=usual.maglev_seed,
            external_cluster_ip=False,
            zone="",
        )
    )
    front = FrontendRecord(id=1, address="203.0.113.80", port=80, protocol=protocol, kind=kind)
    made.apply(ServiceUpserted(namespace="shop", name="web", frontends=(front,), forwarding=forwarding))
    (row,) = made.table(services.SERVICES).values()
    return LbFlags(row.flags)


@pytest.mark.parametrize(
    ("forwarding", "protocol", "direct"),
    [
        ("snat", "TCP", False),
        ("snat", "UDP", False),
        ("dsr", "TCP", True),
        ("dsr", "UDP", True),
        ("hybrid", "TCP", True),
        ("hybrid", "UDP", False),
    ],
)
def test_backends_answer_directly_where_that_is_wanted(forwarding: str, protocol: str, direct: bool) -> None:
    assert bool(flags(protocol, forwarding=forwarding) & LbFlags.DSR) is direct
    assert bool(flags(protocol, node=forwarding) & LbFlags.DSR) is direct
    assert not flags(protocol, forwarding="snat", node=forwarding) & LbFlags.DSR, "the service's word counts"


def test_cluster_addresses_are_not_for_outside() -> None:
    assert not flags("TCP", forwarding="dsr", kind="ClusterIP") & (LbFlags.DSR | LbFlags.OUTSIDE)


@pytest.mark.parametrize("states", [("active", "maintenance"), ("maintenance", "active"), ("terminating", "active")])
def test_a_backend_takes_connections_if_one_of_its_sources_says_so(states: tuple[str, str]) -> None:
    made = ServiceProjection()
    front = FrontendRecord(id=1, address="10.96.0.1", port=80, protocol="TCP", kind="ClusterIP")
    made.apply(ServiceUpserted(namespace="shop", name="web", frontends=(front,)))
    for source, state in zip(("s1", "s2"), states, strict=True):
        backend = BackendRecord(id=1, address="10.1.0.1", port=8080, protocol="TCP", state=state)
        made.apply(BackendsChanged(namespace="shop", service="web", source=source, backends=(backend,)))
    other = BackendRecord(id=2, address="10.1.0.2", port=8080, protocol="TCP")
    made.apply(BackendsChanged(namespace="shop", service="web", source="s3", backends=(other,)))
    (row,) = made.table(services.SERVICES).values()
    assert row.slots == 2
