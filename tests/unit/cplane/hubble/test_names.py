"""Names, services and node labels: what flows are told beyond who their ends are."""

from cplane.hubble.endpoint import Service
from cplane.hubble.filters import compile_filters
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.parser.getters import ANY_PROTOCOL
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from tests.support.flows import SEED, START_NS, World, records, rows_matching, store_of


def flows_of(store: FlowStore) -> list[flow_pb2.Flow]:
    span = store.ring.span(0, store.ring.written)
    return [FlowBuilder(store).flow(span, row) for row in range(len(span))]


def test_an_end_has_the_names_by_which_the_other_end_got_to_know_it() -> None:
    world = World()
    world.names["192.0.2.1"] = {11: ("example.org", "www.example.org"), 13: ("other.example",)}
    to_world = {"dst": "192.0.2.1", "dst_lxc": 0, "dst_identity": 2}
    batch = records(to_world, {**to_world, "src_lxc": 12, "src": "10.244.0.12"}, {**to_world, "src_lxc": 13}, {})
    flows = flows_of(store_of(batch, world=world))
    assert [list(one.destination_names) for one in flows] == [
        ["example.org", "www.example.org"],
        [],
        ["other.example"],
        [],
    ]
    assert not any(one.source_names for one in flows)


def test_an_end_is_the_service_of_its_address_port_and_protocol() -> None:
    world = World()
    world.services["10.96.0.1"] = {(6, 80): Service("web", "shop"), (ANY_PROTOCOL, 53): Service("dns", "kube-system")}
    to_service = {"dst": "10.96.0.1", "dst_lxc": 0}
    rows = [{"dport": 80}, {"dport": 81}, {"dport": 80, "protocol": 17}, {"dport": 53, "protocol": 17}]
    batch = records(*({**to_service, **row} for row in rows), {"src": "10.96.0.1", "src_lxc": 0, "sport": 80})
    flows = flows_of(store_of(batch, world=world))
    assert [one.destination_service.name for one in flows] == ["web", "", "", "dns", ""]
    assert [one.source_service.name for one in flows] == ["", "", "", "", "web"]
    assert flows[3].destination_service.namespace == "kube-system"


def test_names_and_services_are_asked_for_again_when_they_change() -> None:
    world = World()
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=8)
    parser = Parser(store, world)
    batch = records({"dst": "192.0.2.1", "dst_lxc": 0})
    parser.ingest(batch, START_NS)
    world.names["192.0.2.1"] = {11: ("example.org",)}
    world.changed()
    parser.ingest(batch, START_NS)
    assert [list(one.destination_names) for one in flows_of(store)] == [[], ["example.org"]]


def test_a_flow_carries_the_labels_of_its_node() -> None:
    store = store_of(records({}))
    store.node_labels = ("kubernetes.io/os=linux",)
    assert list(flows_of(store)[0].node_labels) == ["kubernetes.io/os=linux"]


def test_filters_select_by_name_service_and_node_label() -> None:
    world = World()
    world.names["192.0.2.1"] = {11: ("www.example.org",)}
    world.services["10.96.0.1"] = {(6, 80): Service("web", "shop")}
    to = {"dst_lxc": 0}
    store = store_of(records({**to, "dst": "192.0.2.1"}, {**to, "dst": "10.96.0.1"}, {}), world=world)
    store.node_labels = ("k8s:zone=a",)
    for wanted, expected in (
        ({"destination_fqdn": ["*.Example.org."]}, [0]),
        ({"destination_fqdn": ["example.org"]}, []),
        ({"source_fqdn": ["*"]}, []),
        ({"destination_service": ["shop/we"]}, [1]),
        ({"destination_service": ["web"]}, []),
        ({"destination_service": ["/web", "other/"]}, [1]),
        ({"node_labels": ["zone=a"]}, [0, 1, 2]),
        ({"node_labels": ["zone=b"]}, []),
    ):
        predicate = compile_filters([flow_pb2.FlowFilter(**wanted)], [], store)
        assert predicate is not None
        assert rows_matching(predicate(store.ring.span(0, 3)).tolist()) == expected, wanted
