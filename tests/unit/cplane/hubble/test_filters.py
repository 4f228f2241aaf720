"""Filters over columns select what their literal reading selects."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.domain.access import Access, Address
from cplane.domain.labels import LabelSet
from cplane.hubble.cli.matching import chosen
from cplane.hubble.filters import EXPERIMENTAL, FIELDS, BadFilter, compile_filters
from cplane.hubble.filters.workload import parse_selector
from cplane.hubble.flow import FlowBuilder
from cplane.hubble.texts import url_path
from cplane.pb.flow import flow_pb2
from tests.support.accesses import GET, QUERY, access, accesses, take
from tests.support.effort import examples
from tests.support.flow_filters import flow_filters, named_world, selected
from tests.support.flows import START_NS, World, record_batches, records, rows_matching, store_of

Filter = flow_pb2.FlowFilter


@settings(max_examples=examples(200), deadline=None)
@given(
    batch=record_batches(),
    seen=accesses(),
    whitelist=st.lists(flow_filters(), max_size=2),
    blacklist=st.lists(flow_filters(), max_size=2),
)
def test_columns_and_messages_agree(
    batch: np.ndarray, seen: list[Access], whitelist: list[Filter], blacklist: list[Filter]
) -> None:
    store = store_of(batch, world=named_world())
    take(store, *seen, world=named_world())
    span = store.ring.span(0, store.ring.written)
    predicate = compile_filters(whitelist, blacklist, store)
    found = list(range(len(span))) if predicate is None else rows_matching(predicate(span).tolist())
    flows = [FlowBuilder(store).flow(span, row) for row in range(len(span))]
    assert found == [row for row, flow in enumerate(flows) if selected(flow, whitelist, blacklist)]


def test_every_field_of_a_filter_is_evaluated() -> None:
    assert {*FIELDS, EXPERIMENTAL} == {field.name for field in Filter.DESCRIPTOR.fields}


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"source_ip": ["10.0.0"]}, "source_ip"),
        ({"destination_ip": ["10.0.0.0/33"]}, "destination_ip"),
        ({"source_ip_xlated": ["x"]}, "source_ip_xlated"),
        ({"source_port": ["http"]}, "source_port"),
        ({"destination_port": ["65536"]}, "destination_port"),
        ({"destination_port": ["-1"]}, "destination_port"),
        ({"protocol": ["ipx"]}, "protocol"),
        ({"source_pod": [""]}, "source_pod"),
        ({"destination_service": [""]}, "destination_service"),
        ({"source_label": ["a in b"]}, "source_label"),
        ({"source_label": ["a=b,"]}, "source_label"),
        ({"source_label": ["a=b c"]}, "source_label"),
        ({"source_label": ["!a=b"]}, "source_label"),
        ({"node_labels": ["=b"]}, "node_labels"),
        ({"source_cluster_name": [""]}, "source_cluster_name"),
        ({"node_name": [""]}, "node_name"),
        ({"node_name": ["a/b/c"]}, "node_name"),
        ({"node_name": ["node 1"]}, "node_name"),
        ({"node_name": ["other/a(b"]}, "node_name"),
        ({"source_label": ["a>x"]}, "source_label"),
        ({"source_label": ["a>-1"]}, "source_label"),
        ({"source_label": ["a<9223372036854775808"]}, "source_label"),
        ({"source_label": ["a>"]}, "source_label"),
        ({"source_label": ["!a>1"]}, "source_label"),
        ({"source_fqdn": ["bad name"]}, "source_fqdn"),
        ({"dns_query": ["("]}, "dns_query"),
        ({"http_status_code": ["600"]}, "http_status_code"),
        ({"http_path": ["["]}, "http_path"),
        ({"http_method": ["GET"], "event_type": [flow_pb2.EventTypeFilter(type=1)]}, "http_method"),
        ({"experimental": Filter.Experimental(cel_expression=["1"])}, "experimental.cel_expression"),
        ({"source_label": ["a" * 5000]}, "source_label"),
        ({"dns_query": ["a" * 4000] * 40}, "whitelist, blacklist"),
        ({"node_name": ["*a" * 300]}, "node_name"),
        ({"source_fqdn": ["a" * 600]}, "source_fqdn"),
        ({"dns_query": [r"(a{1000}){1000}"]}, "dns_query"),
        ({"http_url": ["(?<=a)b"]}, "http_url"),
        ({"source_identity": list(range(5000))}, "whitelist, blacklist"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_by_name(wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(BadFilter) as caught:
        compile_filters([Filter(**wanted)], [], store_of(records({})))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"filter {field}: ")


def test_patterns_that_would_keep_a_backtracking_matcher_busy_for_years_are_answered_at_once() -> None:
    store = store_of(records({}))
    wanted = Filter(node_name=["*n*" * 100, "*a" * 250], destination_fqdn=["*a" * 250] * 20)
    predicate = compile_filters([wanted], [], store)
    assert predicate is not None
    assert not predicate(store.ring.span(0, 1)).any()


@pytest.mark.parametrize(
    "wanted",
    [
        {"http_status_code": ["404", "5+", "20+"]},
        {"http_method": ["GET"], "event_type": [flow_pb2.EventTypeFilter(type=129)]},
        {"http_path": [r"^/a\pL[[:alpha:]]+\z"]},
        {"dns_query": [".*"]},
        {"http_header": [flow_pb2.HTTPHeader(key="a", value="b")]},
    ],
)
def test_filters_about_requests_match_no_packet(wanted: dict[str, Any]) -> None:
    store = store_of(records({}, {"type": 1, "subtype": 133}))
    predicate = compile_filters([Filter(**wanted)], [], store)
    assert predicate is not None
    assert not predicate(store.ring.span(0, 2)).any()


@settings(max_examples=examples(300), deadline=None)
@given(seen=accesses(), wanted=flow_filters())
def test_a_file_of_requests_is_chosen_from_as_a_server_does(seen: list[Access], wanted: Filter) -> None:
    store = store_of(records({}))
    take(store, *seen)
    span = store.ring.span(0, store.ring.written)
    predicate, test = compile_filters([wanted], [], store), chosen([wanted], [])
    assert predicate is not None
    assert predicate(span).tolist() == [test(FlowBuilder(store).flow(span, row)) for row in range(len(span))]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"http_path": ["^/a b$"]}, [1]),
        ({"http_path": [".*"]}, [0, 1, 2]),
        ({"http_url": ["%20b"]}, [1]),
        ({"dns_query": [r"^api\."]}, [4]),
        ({"protocol": ["http"]}, [0, 1, 2, 3]),
        ({"protocol": ["udp"]}, [4]),
        ({"http_status_code": ["2+"]}, [2]),
        ({"event_type": [flow_pb2.EventTypeFilter(type=129)], "reply": [True]}, [2]),
        ({"event_type": [flow_pb2.EventTypeFilter(type=129, match_sub_type=True, sub_type=1)]}, []),
        ({"destination_fqdn": ["*.example.org"]}, [3]),
        ({"experimental": Filter.Experimental(cel_expression=["_flow.l7.http.code == 200u"])}, [2]),
        ({"experimental": Filter.Experimental(cel_expression=["has(_flow.l7.dns)"])}, [4]),
        ({"experimental": Filter.Experimental(cel_expression=["_flow.Summary.startsWith('HTTP/1.1 GET')"])}, [0, 1, 3]),
    ],
)
def test_requests_are_found(wanted: dict[str, Any], found: list[int]) -> None:
    world = World()
    world.names["192.0.2.7"] = {11: ("api.example.org.",)}
    store = store_of(records({})[:0])
    broken = access(GET._replace(url="http://[x"), destination=Address("192.0.2.7", 80))
    answer = access(GET._replace(code=200), answered=True)
    take(store, access(), access(GET._replace(url="http://api/a%20b?c")), answer, broken, access(QUERY), world=world)
    predicate = compile_filters([Filter(**wanted)], [], store)
    assert predicate is not None
    assert rows_matching(predicate(store.ring.span(0, 5)).tolist()) == found


def test_a_uuid_selects_its_flow() -> None:
    store = store_of(records({}, {}, {}))
    predicate = compile_filters([Filter(uuid=[store.ids.text(1), "nonsense"])], [], store)
    assert predicate is not None
    assert predicate(store.ring.span(0, 3)).tolist() == [False, True, False]


def test_a_field_that_looks_at_few_rows_looks_at_the_right_ones() -> None:
    batch = records(*({"type": 4, "dport": 4443 if row in {7, 60} else 80} for row in range(64)))
    store = store_of(batch)
    span = store.ring.span(0, 64)
    for row, found in ((60, [60]), (61, [])):
        predicate = compile_filters([Filter(uuid=[store.ids.text(row)], destination_port=["4443"])], [], store)
        assert predicate is not None
        assert rows_matching(predicate(span).tolist()) == found


def test_no_filter_needs_no_scan() -> None:
    assert compile_filters([], [], store_of(records({}))) is None


def test_ends_that_come_later_and_numbers_given_again_are_seen() -> None:
    world = World()
    store = store_of(records({}), world=world)
    predicate = compile_filters([Filter(source_pod=["shop/web"])], [], store)
    assert predicate is not None
    assert predicate(store.ring.span(0, 1)).all()
    web = int(store.ring.span(0, 1)["src_meta"][0])
    store.endpoints.collect([])
    store.endpoints._values[web] = store.endpoints[0]
    assert not predicate(store.ring.span(0, 1)).any()


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ("", ("k8s:a=1",), True),
        ("a", ("container:a=",), True),
        ("k8s:a", ("container:a=",), False),
        ("a=1", ("k8s:a=1",), True),
        ("a == 1", ("k8s:a=1",), True),
        ("a!=1", (), True),
        ("a in (1, 2), b", ("k8s:a=2", "k8s:b="), True),
        ("a in (1,2),!b", ("k8s:a=2", "k8s:b="), False),
        ("a notin (1,2)", ("k8s:a=2",), False),
        ("app.kubernetes.io/name=x", ("k8s:app.kubernetes.io/name=x",), True),
        ("reserved:host", ("reserved:host",), True),
        ("cidr:10.0.0.0/8", ("cidr:10.0.0.0/8",), True),
        ("index in (3)", ("k8s:index=3",), True),
        ("a=", ("k8s:a",), True),
        ("a>4", ("k8s:a=5",), True),
        ("a > 5", ("k8s:a=5",), False),
        ("k8s:a<5,b", ("k8s:a=-6", "k8s:b="), True),
        ("k8s:a<5", ("container:a=4",), False),
        ("a<5", ("k8s:a=four",), False),
        ("a<5", (), False),
        ("a>0", ("k8s:a=9223372036854775807",), True),
        ("a>0", ("k8s:a=9223372036854775808",), False),
    ],
)
def test_selectors_are_read_as_kubernetes_reads_them(selector: str, labels: tuple[str, ...], expected: bool) -> None:
    assert parse_selector("source_label", selector).matches(LabelSet.parse(labels)) == expected


def test_only_what_was_dropped_has_a_reason_to_be_asked_for() -> None:
    drop = {"type": 1, "subtype": 133}
    store = store_of(records({}, drop, {"type": 5, "verdict": -133}))
    for wanted, found in (
        ([flow_pb2.DROP_REASON_UNKNOWN], []),
        ([flow_pb2.DROP_REASON_UNKNOWN, flow_pb2.POLICY_DENIED], [1, 2]),
    ):
        predicate = compile_filters([Filter(drop_reason_desc=wanted)], [], store)
        assert predicate is not None
        assert rows_matching(predicate(store.ring.span(0, 3)).tolist()) == found


def test_what_a_flow_does_not_have_fits_no_filter_about_it() -> None:
    store = store_of(records({"ifindex": 0}, {"type": 7, "subtype": 1, "netns_cookie": 5011}))
    take(store, access(GET._replace(url="", method="")))
    span = store.ring.span(0, store.ring.written)  # a packet, a socket before and after, a request
    flows = [FlowBuilder(store).flow(span, row) for row in range(len(span))]
    assert [flow.Type for flow in flows] == [flow_pb2.L3_L4, flow_pb2.SOCK, flow_pb2.SOCK, flow_pb2.L7]
    for wanted, found in (
        ({"interface": [flow_pb2.NetworkInterface()]}, [1, 2]),
        ({"tcp_flags": [flow_pb2.TCPFlags()]}, [0]),
        ({"ip_trace_id": [0]}, []),
        ({"http_url": [""]}, []),
        ({"http_method": [""]}, []),
        ({"http_path": [""]}, []),
    ):
        predicate, test = compile_filters([Filter(**wanted)], [], store), chosen([Filter(**wanted)], [])
        assert predicate is not None
        assert rows_matching(predicate(span).tolist()) == found, wanted
        assert [row for row, flow in enumerate(flows) if test(flow)] == found, wanted


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://api/a%20b?c#d", "/a b"),
        ("HTTP://user:pw@[::1]:80/a", "/a"),
        ("http://api", ""),
        ("/a;b#c", "/a;b#c"),
        ("//admin/x", "//admin/x"),
        ("http://api//admin/x", "//admin/x"),
        ("*", "*"),
        ("mailto:a/b", ""),
        ("a/b", None),
        ("1:/a", None),
        (":/a", None),
        ("", None),
        ("?a", None),
        ("/a%2", None),
        ("/a\tb", None),
        ("http://api/a\nb", None),
        ("http://[::1/a", None),
        ("http://api:http/a", None),
    ],
)
def test_the_path_is_what_was_asked_for(url: str, path: str | None) -> None:
    assert url_path(url) == path


def test_a_time_of_the_store_is_utc() -> None:
    assert int(store_of(records({})).ring.span(0, 1)["time_ns"][0]) == START_NS
