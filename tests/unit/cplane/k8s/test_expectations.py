"""Expectations are read strictly and met or not; matrices have a cell for every pair; what is named in vain is told."""

import pytest

from cplane.domain.policy.explanation import Outcome
from cplane.k8s.coverage import Coverage
from cplane.k8s.expectations import check, read_expectations
from cplane.k8s.matrix import PARTIES_MAX, NoPods, TooManyParties, cells, parties
from cplane.k8s.objects import Source
from cplane.k8s.ports import Asked, parse_port
from cplane.k8s.probes import BadProbe
from cplane.k8s.reach import Reach
from tests.support.builders import ccnp, cnp, ports, selector
from tests.support.scenes import node, pod, scene, service

WEB = pod("shop/web", "10.0.0.1", nodeName="n1")
API = pod("shop/api", "10.0.0.2", nodeName="n1", ports={"http": 8080})
ONLY_WEB = cnp("web", ingress=[{"fromEndpoints": [selector("app=web")]}])
GROUP = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumCIDRGroup",
    "metadata": {"name": "g"},
    "spec": {"externalCIDRs": ["10.0.0.0/8"]},
}


def read(text):
    return read_expectations(Source("t.yaml", text.encode()))


def problems(text, *documents):
    found, wrong = read(text)
    assert wrong == ()
    return [one.problem for one in check(found, Reach(scene(*documents)))]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("80/TCP", Asked("TCP", 80)),
        ("80", Asked("TCP", 80)),
        ("http/tcp", Asked("TCP", "http")),
        ("8/ICMP", Asked("ICMP", icmp_type=8)),
        ("ICMPv6", Asked("ICMPV6")),
        ("8/ICMPv4", Asked("ICMPV4", icmp_type=8)),
        ("UDP", Asked("UDP")),
    ],
)
def test_traffic_is_written_as_port_and_protocol(text, asked):
    assert parse_port(text) == asked


@pytest.mark.parametrize("text", ["80/TPC", "echo/ICMP", "80/", "0/TCP", "65536", "99999/UDP", "256/ICMP"])
def test_traffic_that_there_is_not_is_refused(text):
    if text == "80/":
        assert parse_port(text) == Asked("TCP", 80)
        return
    with pytest.raises(BadProbe):
        parse_port(text)


def test_an_expectation_has_a_name_of_its_own_where_none_is_given():
    found, _ = read(
        "- {from: shop/web, to: shop/api, port: 80, expect: allow}\n- {name: n, from: a, to: b, expect: deny}"
    )
    assert [one.name for one in found] == ["shop/web → shop/api 80/TCP: allow", "n"]
    assert [str(one.where.path) for one in found] == ["[0]", "[1]"]
    assert found[1].expect is Outcome.DENIED


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("- {to: b, expect: deny}", "t.yaml, document 1, [0]: from is missing"),
        ("- {from: a, to: b, expect: dney}", "[0].expect: unknown outcome 'dney'; did you mean 'deny'?"),
        ("- {from: a, to: b, expect: deny, prot: x}", "[0].prot: unknown field; did you mean 'port'?"),
        ("- {from: a, to: b, expect: deny, port: 80/XCP}", "[0].port: '80/XCP': unknown protocol"),
        ("- {from: a, to: b, expect: deny, port: [80]}", "[0].port: expected a string"),
        ("- {from: a, to: b, expect: deny, http: {verb: GET}}", "[0]: Object contains unknown field `verb`"),
        ("- 1", "[0]: expected an object"),
        ("{from: a}", "document 1: expected a list"),
        ("", "no test: write a list"),
        ("[]", "no test: write a list"),
        ("- [", "t.yaml, document 1"),
    ],
)
def test_what_is_wrong_with_a_test_is_told_with_its_place(text, error):
    _, wrong = read(text)
    assert any(error in str(one) for one in wrong), [str(one) for one in wrong]


def test_an_expectation_is_met_by_the_verdict_and_by_its_policy():
    text = """
- {from: shop/web, to: shop/api, port: 80, expect: allow, because: web}
- {from: 203.0.113.7, to: shop/api, port: 80, expect: deny, because: shop/web}
- {from: 203.0.113.7, to: shop/api, port: 80, expect: allow}
- {from: shop/web, to: shop/api, port: 80, expect: allow, because: other}
- {from: shop/api, to: shop/web, port: 80, expect: allow, because: web}
- {from: shop/wbe, to: shop/api, port: 80, expect: deny}
"""
    assert problems(text, WEB, API, ONLY_WEB) == [
        "",
        "",
        "expected ALLOWED, got DENIED",
        "ALLOWED as expected, but not because of other: by CiliumNetworkPolicy shop/web",
        "ALLOWED as expected, but not because of web: by no policy",
        "there is no pod 'shop/wbe'; did you mean 'shop/web'?",
    ]


def test_every_pair_has_a_cell_and_pods_that_look_the_same_one_row():
    twin = pod("shop/api-2", labels={"app": "api"}, ports={"http": 8080})
    found = scene(WEB, API, twin, ONLY_WEB, cnp("out", egress=[{"toCIDR": ["10.9.0.0/16"]}]))
    rows = parties(found)
    names = ["shop/api (+1)", "shop/web", "node/n1", "world (IPv4)", "10.9.0.0/16"]
    assert [row.name for row in rows] == names
    assert rows[0].members == ("shop/api", "shop/api-2")
    grid = list(cells(Reach(found), rows, Asked("TCP", "http")))
    assert len(grid) == len(rows) ** 2
    by_name = {(cell.source.name, cell.destination.name): cell for cell in grid if cell is not None}
    assert by_name["shop/web", names[0]].answer.verdict is Outcome.ALLOWED
    assert by_name[names[0], names[0]].answer.verdict is Outcome.DENIED
    assert ("shop/web", "shop/web") not in by_name  # it has no port of that name
    assert ("world (IPv4)", "10.9.0.0/16") not in by_name


def test_a_cell_is_mixed_where_a_node_is_the_host_of_some():
    far = pod("shop/api-2", labels={"app": "api"}, ports={"http": 8080}, nodeName="n2")
    found = scene(node("n1"), node("n2"), API, far, cnp("closed", ingress=[{}]))
    grid = cells(Reach(found), parties(found), Asked("TCP", 80))
    from_node = next(cell for cell in grid if cell is not None and cell.source.name == "node/n1")
    assert (from_node.mixed, from_node.answer.verdict) == (True, Outcome.DENIED)


def test_pods_that_are_audited_have_a_row_of_their_own():
    twin = pod("shop/api-2", labels={"app": "api"}, ports={"http": 8080})
    found = scene(API, twin, cnp("closed", ingress=[{}]))
    reach = Reach(found, ("shop/api",))
    grid = cells(reach, parties(found, (), reach.is_audited), Asked("TCP", 80))
    outside = [cell for cell in grid if cell is not None and cell.source.name == "world (IPv4)"]
    verdicts = {cell.destination.members: cell.answer.verdict for cell in outside if cell.destination.kind == "pod"}
    assert verdicts == {("shop/api",): Outcome.AUDIT, ("shop/api-2",): Outcome.DENIED}


def test_a_matrix_can_be_of_some_namespaces_and_not_of_too_much():
    found = scene(WEB, pod("other/web"))
    assert [row.name for row in parties(found, ["other"]) if row.kind == "pod"] == ["other/web"]
    many = scene(*(pod(f"shop/p{number}") for number in range(PARTIES_MAX)))
    with pytest.raises(TooManyParties, match="601 rows"):
        parties(many)
    with pytest.raises(NoPods, match="no pod of namespace 'othr' is in the files; did you mean 'other'"):
        parties(found, ["shop", "othr"])


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (ONLY_WEB, []),
        (cnp(subject=selector("app=x"), ingress=[{}]), [("spec.endpointSelector", "selects no pod")]),
        (cnp(ingress=[{"fromEndpoints": [selector("app=x")]}]), [("spec.ingress[0]", "selects no pod")]),
        (cnp(ingress=[{"fromEndpoints": [{}]}, {"fromEntities": ["world", "health"]}]), []),
        (cnp(ingress=[{"fromCIDRSet": [{"cidrGroupRef": "g"}]}]), []),
        (cnp(ingress=[{"fromCIDRSet": [{"cidrGroupRef": "x"}]}]), [("spec.ingress[0]", "there is no group x")]),
        (cnp(ingress=[{"toPorts": ports("http/TCP")}]), []),
        (cnp(ingress=[{"toPorts": ports("http/UDP")}]), [("spec.ingress[0]", "no pod that it is about has a port")]),
        (cnp(subject=selector("app=web"), ingress=[{"toPorts": ports("http")}]), [("spec.ingress[0]", "no pod that")]),
        (cnp(subject=selector("app=web"), egress=[{"toPorts": ports("http")}]), []),
        (
            cnp(egress=[{"toEndpoints": [selector("app=web")], "toPorts": ports("http")}]),
            [("spec.egress[0]", "no pod that")],
        ),
        (cnp(egress=[{"toServices": [{"k8sService": {"serviceName": "api"}}]}]), []),
        (
            cnp(egress=[{"toServices": [{"k8sService": {"serviceName": "x"}}]}]),
            [("spec.egress[0]", "there is no service shop/x")],
        ),
    ],
)
def test_what_a_policy_names_in_vain_is_told(document, told):
    found = scene(WEB, API, GROUP, service("shop/api", {"port": 80}), document)
    (written,) = found.manifests.policies
    advice = [(one.path, one.message) for one in Coverage(found).advice(written.policy)]
    assert [path for path, _ in advice] == [path for path, _ in told]
    assert all(message.startswith(start) for (_, message), (_, start) in zip(advice, told, strict=True))


def test_without_pods_or_nodes_nothing_is_in_vain():
    hosts = ccnp("hosts", ingress=[{}])
    del hosts["spec"]["endpointSelector"]
    hosts["spec"]["nodeSelector"] = selector("pool=x")
    found = scene(cnp("a", subject=selector("app=x"), ingress=[{"toPorts": ports("http/TCP")}]), hosts)
    told = [one for written in found.manifests.policies for one in Coverage(found).advice(written.policy)]
    assert told == []
    found = scene(node("n1"), hosts)
    (one,) = Coverage(found).advice(found.manifests.policies[0].policy)
    assert one.path == "spec.nodeSelector"


@pytest.mark.parametrize("name", ["web", "shop/web", "CiliumNetworkPolicy shop/web", "CiliumNetworkPolicy/shop/web"])
def test_the_policy_that_decides_may_be_called_as_answers_call_it(name: str) -> None:
    text = f"- {{from: shop/web, to: shop/api, port: 80, expect: allow, because: {name}}}"
    assert problems(text, WEB, API, ONLY_WEB) == [""]
