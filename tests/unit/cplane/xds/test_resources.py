"""Redirections as Envoy's resources."""

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.http import HeaderMatch, HttpRule, Secret
from cplane.domain.policy.kafka import KafkaRule
from cplane.domain.policy.redirect import L7Rules, Listener, Redirect, Tls
from cplane.domain.policy.redirection import Redirection, RedirectRule
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.verdict import Direction
from cplane.xds.messages import CLUSTER, LISTENER, ROUTES, SECRET
from cplane.xds.names import Told, read_name
from cplane.xds.resources import Rendered, render, secrets_named

PORT = 10_000
REF = PolicyRef("CiliumNetworkPolicy", "shop", "api")
OTHER = PolicyRef("CiliumClusterwideNetworkPolicy", "", "all things")
PAIR = {"tls.crt": b"c", "tls.key": b"k"}
INNER, OUTER = Tls(Secret("shop", "inner")), Tls(Secret("shop", "outer"))
SECRETS = {INNER.secret: PAIR, OUTER.secret: {"ca.crt": b"a"}}


def http(*rules: HttpRule, ref: PolicyRef = REF, **tls) -> RedirectRule:
    return RedirectRule(ref, "spec.ingress[0].toPorts[0]", Redirect(L7Rules("http", rules), None, **tls))


def names(*wanted: str, **tls: Tls) -> RedirectRule:
    return RedirectRule(REF, "spec", Redirect(None, None, wanted, **tls))


def made(
    *rules: RedirectRule, parser: str = "http", direction: Direction = Direction.EGRESS, secrets=SECRETS
) -> Rendered:
    return render(PORT, Redirection(direction, 6, 80, parser, rules), secrets)


def of(rendered: Rendered, type_url: str) -> dict[str, bytes]:
    return {one.key.name: one.body for one in rendered.resources if one.key.type_url == type_url}


def listener(rendered: Rendered) -> listener_pb2.Listener:
    (body,) = of(rendered, LISTENER).values()
    return listener_pb2.Listener.FromString(body)


def routes(rendered: Rendered, name: str = str(PORT)) -> list:
    found = route_pb2.RouteConfiguration.FromString(of(rendered, ROUTES)[name])
    return list(found.virtual_hosts[0].routes)


def allowing(rendered: Rendered) -> list:
    return [one for one in routes(rendered) if one.WhichOneof("action") == "route"]


def test_a_listener_is_there_for_both_families_and_keeps_addresses():
    one = listener(made(http(HttpRule())))
    addresses = [one.address, *(more.address for more in one.additional_addresses)]
    assert [(a.socket_address.address, a.socket_address.port_value) for a in addresses] == [
        ("127.0.0.1", PORT),
        ("::1", PORT),
    ]
    assert one.transparent.value
    assert [f.name.rpartition(".")[2] for f in one.listener_filters] == ["original_dst", "original_src"]


@pytest.mark.parametrize(("direction", "mark"), [(Direction.EGRESS, 0xB00), (Direction.INGRESS, 0xA00)])
def test_connections_to_servers_are_marked_by_direction(direction, mark):
    from envoy.extensions.filters.listener.original_src.v3 import original_src_pb2

    one = listener(made(http(HttpRule()), direction=direction))
    assert original_src_pb2.OriginalSrc.FromString(one.listener_filters[1].typed_config.value).mark == mark


def test_the_first_route_refuses_tunnels_and_the_last_one_the_rest():
    first, *_, last = routes(made(http(HttpRule("GET"))))
    assert first.match.HasField("connect_matcher")
    for one in (first, last):
        assert (one.direct_response.status, one.direct_response.body.inline_string) == (403, "Access denied\r\n")
        assert read_name(one.name) == Told(PORT, allowed=False)


def test_an_edit_of_rules_leaves_the_listener_as_it_is():
    before, after = made(http(HttpRule("GET"))), made(http(HttpRule("PUT"), HttpRule(host="a")))
    assert of(before, LISTENER) == of(after, LISTENER)
    assert of(before, ROUTES) != of(after, ROUTES)


def test_plain_text_is_compared_and_not_matched():
    (one,) = allowing(made(http(HttpRule("GET", r"/a/v1\.html", r"a\.shop"))))
    assert [(m.name, m.string_match.exact) for m in one.match.headers] == [
        (":method", "GET"),
        (":path", "/a/v1.html"),
        (":authority", "a.shop"),
    ]


@pytest.mark.parametrize("text", ["/a.b", "a|b", "(a)", "a*", "^a", "a$", "[a]", r"\d", r"a\b", "a{2}", "é"])
def test_everything_else_is_an_expression(text):
    (one,) = allowing(made(http(HttpRule(path=text))))
    assert one.match.headers[-1].string_match.safe_regex.regex == text


@pytest.mark.parametrize(
    ("header", "name", "kind", "value"),
    [
        ("X-A", "X-A", "present_match", True),
        ("X-A: [0-9]+", "X-A", "safe_regex", "[0-9]+"),
        ("X-A one", "X-A", "exact", "one"),
        ("X-A: (", "X-A", "exact", "("),
        ("x-forwarded-proto: https", "x-cplane-forwarded-proto", "exact", "https"),
    ],
)
def test_a_header_is_present_or_as_it_is_described(header, name, kind, value):
    (one,) = allowing(made(http(HttpRule(headers=(header,)))))
    (matcher,) = one.match.headers
    found = matcher.present_match if kind == "present_match" else getattr(matcher.string_match, kind)
    assert (matcher.name, getattr(found, "regex", found)) == (name, value)


@pytest.mark.parametrize(
    "rule",
    [
        HttpRule(host="("),
        HttpRule(headers=("no/token: a",)),
        HttpRule(headers=(" a",)),
        HttpRule(header_matches=(HeaderMatch("X-A", secret=Secret("shop", "missing")),)),
        HttpRule(header_matches=(HeaderMatch("X-A", "a\nb"),)),
        HttpRule(header_matches=(HeaderMatch("X A", "a"),)),
    ],
)
def test_what_can_match_nothing_has_no_route(rule):
    assert allowing(made(http(rule))) == []


@pytest.mark.parametrize(
    ("items", "value"), [({"any": b"s"}, "s"), ({"a": b"1", "b": b"2"}, "given"), (None, "given"), ({}, "given")]
)
def test_a_secret_of_one_item_is_the_value_of_a_header(items, value):
    secret = Secret("shop", "token")
    secrets = {} if items is None else {secret: items}
    rule = HttpRule(header_matches=(HeaderMatch("X-A", "given", secret),))
    (one,) = allowing(made(http(rule), secrets=secrets))
    assert one.match.headers[0].string_match.exact == value
    assert secrets_named(Redirection(Direction.EGRESS, 6, 80, "http", (http(rule),))) == {secret}


def test_headers_that_are_mended_where_they_differ_double_the_routes():
    matches = (
        HeaderMatch("A", "1", None, "ADD"),
        HeaderMatch("B", "2%", None, "DELETE"),
        HeaderMatch("C", "3", None, "LOG"),
    )
    found = allowing(made(http(HttpRule(header_matches=matches))))
    assert [
        (list(one.request_headers_to_remove), [o.header.value for o in one.request_headers_to_add]) for one in found
    ] == [
        ([], []),
        (["B"], []),
        ([], ["1"]),
        (["B"], ["1"]),
    ]
    inverted = [m for one in found for m in one.match.headers if m.invert_match]
    assert all(m.treat_missing_header_as_empty for m in inverted)


def test_more_choices_than_can_be_told_let_nothing_pass_and_are_a_problem():
    matches = tuple(HeaderMatch(f"X-{number}", "1", None, "ADD") for number in range(6))
    one = made(http(HttpRule(header_matches=matches)))
    assert allowing(one) == []
    assert "more than 5 headers" in one.problem


def test_a_percent_sign_is_no_command():
    (one,) = allowing(made(http(HttpRule(header_matches=(HeaderMatch("A", "%REQ(b)%", None, "REPLACE"),)))))
    assert one.request_headers_to_add[0].header.value == "%%REQ(b)%%"


def test_rules_that_let_all_pass_come_last():
    found = allowing(made(http(), http(HttpRule("GET"), ref=OTHER), RedirectRule(None, "", None)))
    assert [read_name(one.name).rules for one in found] == [(OTHER,), (REF,)]
    assert list(found[-1].match.headers) == []


@pytest.mark.parametrize(
    "other",
    [
        Redirect(L7Rules("kafka", (KafkaRule(topic="t"),))),
        Redirect(L7Rules("dns", (DnsRule("a.example."),))),
        Redirect(L7Rules("other")),
        Redirect(listener=Listener("CiliumEnvoyConfig", "a", "b")),
    ],
    ids=["kafka", "dns", "parser", "listener"],
)
def test_rules_of_other_protocols_let_nothing_pass(other):
    one, alien = http(HttpRule("GET", "/pub")), RedirectRule(OTHER, "spec", other)
    assert made(one, alien) == made(one)
    assert allowing(made(alien)) == []
    through = made(names("a.shop"), alien, parser="tls")
    assert through == made(names("a.shop"), parser="tls")


def test_a_rule_of_several_policies_has_one_route_that_names_them_all():
    (one,) = allowing(made(http(HttpRule("GET")), http(HttpRule("GET"), ref=OTHER)))
    assert read_name(one.name) == Told(PORT, True, (REF, OTHER), ("spec.ingress[0].toPorts[0]",) * 2)


def chains(rendered: Rendered) -> list[tuple[str, list[str], list[str]]]:
    """Of each filter chain: its name, server names, and filters."""
    return [
        (one.name, list(one.filter_chain_match.server_names), [f.name.rpartition(".")[2] for f in one.filters])
        for one in listener(rendered).filter_chains
        if one.name != "itself"  # which every listener has
    ]


def test_server_names_have_chains_and_everything_else_is_refused():
    one = made(names("a.shop", "*.b.shop"), parser="tls")
    assert chains(one) == [
        ("tls/a.shop", ["a.shop"], ["tcp_proxy"]),
        ("tls/*.b.shop", ["*.b.shop"], ["rbac", "tcp_proxy"]),
    ]
    default = listener(one).default_filter_chain
    assert [f.name.rpartition(".")[2] for f in default.filters] == ["rbac", "tcp_proxy"]


def test_a_name_is_in_one_chain_however_many_rules_have_it():
    assert [
        one[1] for one in chains(made(names("a.shop"), names("a.shop."), names("*.x"), names("**.x"), parser="tls"))
    ] == [
        ["*.x"],
        ["a.shop"],
    ]


def test_without_a_restriction_every_name_passes():
    one = made(names("a.shop"), RedirectRule(REF, "", None), parser="tls")
    assert [f.name.rpartition(".")[2] for f in listener(one).default_filter_chain.filters] == ["tcp_proxy"]


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        (None, "secret shop/token is not there"),
        ({}, "secret shop/token has 0 items, and the value of a header is one"),
        ({"a": b"1", "b": b"2"}, "secret shop/token has 2 items, and the value of a header is one"),
        ({"a": b"1"}, ""),
    ],
)
def test_a_secret_that_cannot_be_the_value_of_a_header_is_told(items, problem):
    secret = Secret("shop", "token")
    rule = HttpRule(header_matches=(HeaderMatch("X-A", secret=secret), HeaderMatch("X-B", secret=secret)))
    assert made(http(rule), secrets={} if items is None else {secret: items}).problem == problem


def test_tls_that_ends_here_has_its_secret_and_its_own_routes():
    one = made(http(HttpRule("GET"), terminating=INNER, originating=OUTER))
    assert set(of(one, SECRET)) == {
        "certificate/shop/inner/ca.crt/tls.crt/tls.key",
        "ca/shop/outer/ca.crt/tls.crt/tls.key",
    }
    assert set(of(one, CLUSTER)) == {"original-dst", "original-dst/shop/outer/ca.crt/tls.crt/tls.key"}
    assert chains(one) == [("tls", [], ["http_connection_manager"])]
    assert listener(one).filter_chains[0].transport_socket.name == "envoy.transport_sockets.tls"
    assert routes(one, f"{PORT}/tls")[1].route.cluster == "original-dst/shop/outer/ca.crt/tls.crt/tls.key"
    assert [f.name.rpartition(".")[2] for f in listener(one).default_filter_chain.filters] == ["rbac", "tcp_proxy"]


@pytest.mark.parametrize(
    ("secrets", "problem"),
    [
        ({}, "secret shop/inner is not there"),
        ({INNER.secret: {"tls.crt": b"c"}}, "secret shop/inner has no tls.key"),
        ({INNER.secret: {}}, "secret shop/inner has no tls.crt, tls.key"),
    ],
)
def test_without_its_certificate_a_rule_lets_nothing_pass(secrets, problem):
    one = made(http(HttpRule(), terminating=INNER), secrets=secrets)
    assert one.problem == problem
    assert allowing(one) == []
    assert of(one, SECRET) == {}


def test_server_names_over_ended_tls_have_routes_of_their_own():
    one = made(
        http(HttpRule("GET"), terminating=INNER, server_names=("a.shop",)),
        http(HttpRule("PUT"), terminating=INNER, server_names=("**.shop",)),
    )
    assert chains(one) == [
        ("tls/**.shop", ["*.shop"], ["rbac", "http_connection_manager"]),
        ("tls/a.shop", ["a.shop"], ["http_connection_manager"]),
    ]
    assert [m.match.headers[0].string_match.exact for m in routes(one, f"{PORT}/tls/**.shop")[1:-1]] == ["PUT"]
    assert [m.match.headers[0].string_match.exact for m in routes(one, f"{PORT}/tls/a.shop")[1:-1]] == ["GET", "PUT"]


def test_a_name_of_one_label_does_not_give_its_rules_to_a_longer_one():
    one = made(
        http(HttpRule("GET"), terminating=INNER, server_names=("*.shop",)),
        http(HttpRule("PUT"), terminating=INNER, server_names=("b.a.shop",)),
    )
    assert [m.match.headers[0].string_match.exact for m in routes(one, f"{PORT}/tls/b.a.shop")[1:-1]] == ["PUT"]


TEXTS = st.text("ab(|", max_size=3)
MATCHES = st.builds(HeaderMatch, TEXTS, TEXTS, st.none(), st.sampled_from(["", "LOG", "ADD", "DELETE", "REPLACE"]))
HTTP = st.builds(
    HttpRule, TEXTS, TEXTS, TEXTS, st.lists(TEXTS, max_size=2).map(tuple), st.lists(MATCHES, max_size=7).map(tuple)
)
RULES = st.one_of(
    st.builds(lambda rules: http(*rules), st.lists(HTTP, max_size=3)),
    st.builds(lambda rules: http(*rules, terminating=INNER), st.lists(HTTP, max_size=3)),
    st.just(RedirectRule(REF, "", None)),
)


@given(st.lists(RULES, max_size=3), st.sampled_from(Direction))
def test_the_same_redirection_has_the_same_bytes_and_names_are_unique(rules, direction):
    one, two = made(*rules, direction=direction), made(*rules, direction=direction)
    assert one == two
    assert len({r.key for r in one.resources}) == len(one.resources)
    assert len(of(one, LISTENER)) == 1
