"""Why traffic has its verdict: histories whose answers are known."""

from typing import Any

import msgspec
import pytest

from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import DeleteEndpoint
from cplane.deciders.policy import DeletePolicies
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.redaction import REDACTED
from cplane.timetravel.flows import RecordedFlow, pick_flow
from cplane.timetravel.history import NoSuchMoment
from cplane.timetravel.traffic import question_of
from cplane.timetravel.when import instant
from cplane.timetravel.why import NoSuchEnd, Why, excerpt_of, why, why_flow
from tests.support.builders import ports, selector
from tests.support.flow_lines import line
from tests.support.scenario import pod
from tests.support.story import Story, applied

ASKED = question_of(source="shop/client", destination="shop/web", port="80/TCP")
POLICY = "policy CiliumNetworkPolicy/shop/web"
FROM_OTHERS = [{"fromEndpoints": [selector("app=other")], "toPorts": ports("80/TCP")}]
FROM_CLIENT = [{"fromEndpoints": [selector("app=client")], "toPorts": ports("80/TCP")}]


@pytest.fixture
def told() -> Story:
    return Story(pod("web", "k8s:app=web", ifindex=10), pod("client", "k8s:app=client", ifindex=11))


def asked(told: Story, at: int | str = "head") -> Why:
    now_ns = told.entries[-1].recorded_at_ns + 1
    return why(told.history, now_ns, ASKED, at=str(at))


def test_a_denial_names_the_rule_that_asks_for_it_the_one_that_is_near_and_who_put_them_there(told: Story) -> None:
    end = told.do(applied("web", "web", ingress=FROM_OTHERS))
    found = asked(told)
    assert (found.verdict, found.direction, found.position) == ("DENIED", "ingress", end)
    egress, ingress = found.sides
    assert (egress.verdict, egress.rules) == ("ALLOWED", ())
    (rule,) = ingress.rules
    assert (rule.policy, rule.selector) == (POLICY, "app=web,k8s:io.kubernetes.pod.namespace=shop")
    assert rule.put is not None
    assert (rule.put.position, rule.put.actor) == (end, told.entries[end - 1].actor)
    assert ingress.nearest is not None
    assert ingress.nearest.rule.path == "spec.ingress[0]"
    assert "app: other" in ingress.nearest.rule.yaml
    assert ingress.nearest.lacks == ("the peer does not meet app=other",)


def test_what_turned_the_verdict_is_said_with_the_policy_before_and_after(told: Story) -> None:
    told.do(applied("web", "web", ingress=FROM_CLIENT))
    end = told.do(applied("web", "web", ingress=FROM_OTHERS))
    told.do(applied("aside", "aside", ingress=FROM_OTHERS), ChangeOptions(policy_audit=False))
    turned = asked(told).turned
    assert turned is not None
    assert (turned.event.position, turned.object) == (end, POLICY)
    assert (turned.before, turned.after) == ("ALLOWED", "DENIED")
    assert {"-        app: client", "+        app: other"} <= set(turned.diff.splitlines())


def test_every_moment_has_its_own_answer(told: Story) -> None:
    before = len(told.entries)
    opened = told.do(applied("web", "web", ingress=FROM_CLIENT))
    shut = told.do(applied("web", "web", ingress=FROM_OTHERS))
    lifted = told.do(DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "web"),)))
    assert [asked(told, at).verdict for at in (before, opened, shut, lifted)] == [
        *("ALLOWED", "ALLOWED", "DENIED", "ALLOWED")
    ]
    assert asked(told, opened).sides[1].rules[0].path == "spec.ingress[0]"
    assert asked(told, instant(told.entries[shut - 1].recorded_at_ns)).position == shut


def test_a_verdict_that_never_changed_goes_back_to_the_younger_end(told: Story) -> None:
    created = len(told.entries)
    told.do(applied("aside", "aside", ingress=FROM_OTHERS))
    found = asked(told)
    assert found.turned is not None
    assert (found.turned.event.position, found.turned.before, found.turned.after) == (created, "ABSENT", "ALLOWED")
    assert found.complete
    source, destination = found.source, found.destination
    assert source.created is not None and source.created.position == created
    assert destination.created is not None and destination.created.summary.startswith("endpoint 1 is shop/web")
    assert "k8s:app=client" in source.labels


def test_an_end_that_is_not_there_is_named_with_what_was_meant(told: Story) -> None:
    with pytest.raises(NoSuchEnd, match=r"there is no pod shop/wob at position \d+; did you mean 'shop/web'"):
        why(told.history, 0, question_of(source="shop/client", destination="shop/wob", port="80/TCP"))
    with pytest.raises(NoSuchEnd, match=r"there is no pod shop/client at position 1; at position \d+, the last"):
        asked(told, 1)
    told.do(DeleteEndpoint(container_id="c-web", container_interface="eth0"))
    with pytest.raises(NoSuchEnd, match="no pod shop/web"):
        asked(told)
    with pytest.raises(NoSuchMoment):
        asked(told, 10_000)


def recorded(told: Story, position: int, head: int, **changed: Any) -> RecordedFlow:
    """A packet from the client to the web pod, judged by a position, seen 12 ms after another one was recorded."""
    client, web = (told.history.moment(position).world.endpoints[number] for number in (2, 1))
    ends = {
        "source": {"ID": 2, "identity": int(client.identity), "namespace": "shop", "pod_name": "client"},
        "destination": {"ID": 1, "identity": int(web.identity), "namespace": "shop", "pod_name": "web"},
        "IP": {"source": client.ipv4, "destination": web.ipv4},
        "drop_reason_desc": "POLICY_DENIED",
    }
    time = instant(told.entries[head - 1].recorded_at_ns + 12_000_000)
    stamped = {"extensions": {"position": str(position)}, "time": time}
    return pick_flow([line(**{**ends, **stamped, **changed})], "")


def test_a_flow_is_judged_by_the_position_that_its_node_had_in_force(told: Story) -> None:
    shut = told.do(applied("web", "web", ingress=FROM_OTHERS))
    opened = told.do(applied("web", "web", ingress=FROM_CLIENT))
    told.do(applied("aside", "aside", ingress=FROM_OTHERS))
    found = why_flow(told.history, recorded(told, shut, opened))
    assert (found.verdict, found.position) == ("DENIED", shut)
    assert found.flow is not None
    assert (found.flow.position, found.flow.head) == (shut, opened)
    expected = f"judged by position {shut}; position {opened}, recorded 12 ms before, was not in the kernel yet"
    assert found.flow.note == expected
    caught_up = why_flow(told.history, recorded(told, opened, opened, verdict="FORWARDED"))
    assert caught_up.flow is not None
    assert (caught_up.verdict, caught_up.flow.note) == ("ALLOWED", "")


def test_what_a_flow_was_and_what_rules_say_may_differ_and_that_is_said(told: Story) -> None:
    shut = told.do(applied("web", "web", ingress=FROM_OTHERS))
    open_before = why_flow(told.history, recorded(told, shut, shut, verdict="FORWARDED"))
    assert open_before.flow is not None and "a connection that was open before goes on" in open_before.flow.note
    lifted = told.do(DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "web"),)))
    other = why_flow(told.history, recorded(told, lifted, lifted, drop_reason_desc="STALE_OR_UNROUTABLE_IP"))
    assert other.flow is not None
    assert other.flow.note == "no policy dropped it: the reason was STALE_OR_UNROUTABLE_IP"


def test_an_end_whose_address_has_gone_to_others_is_the_identity_that_was_judged(told: Story) -> None:
    shut = told.do(applied("web", "web", ingress=FROM_OTHERS))
    client = {"source": {"identity": 1}, "IP": {"source": "192.0.2.77", "destination": "10.244.0.2"}}
    found = why_flow(told.history, recorded(told, shut, shut, **client))
    assert (found.source.name, found.source.identity, found.verdict) == ("identity:1", 1, "ALLOWED")


def public(path: str = "/public/.*") -> list[dict[str, Any]]:
    rules = {"http": [{"method": "GET", "path": path, "headers": ["X-Token: 42"]}]}
    return [{"fromEndpoints": [selector("app=client")], "toPorts": [{**ports("80/TCP")[0], "rules": rules}]}]


def http(url: str, **fields: Any) -> dict[str, Any]:
    headers = [{"key": "x-token", "value": "42"}]
    return {
        "event_type": {"type": 129},
        "drop_reason_desc": "",
        "l7": {"type": "REQUEST", "http": {"method": "GET", "url": url, "headers": headers}},
        **fields,
    }


def test_a_request_is_judged_by_the_rules_of_its_position(told: Story) -> None:
    first = told.do(applied("web", "web", ingress=public()))
    then = told.do(applied("web", "web", ingress=public("/other/.*")))
    for position, url, verdict, recorded_as in (
        (first, "http://web/public/1?q", "ALLOWED", "FORWARDED"),
        (first, "http://web/admin", "DENIED", "DROPPED"),
        (then, "http://web/public/1?q", "DENIED", "DROPPED"),
        (then, "http://web/other/", "ALLOWED", "FORWARDED"),
    ):
        found = why_flow(told.history, recorded(told, position, position, **http(url, verdict=recorded_as)))
        assert (found.verdict, found.request) == (verdict, f"GET {url.removeprefix('http://')}")
        assert found.flow is not None and found.flow.note == ""
        assert found.sides[1].l7


def test_an_answer_is_judged_by_its_request_and_what_is_unknown_is_said(told: Story) -> None:
    at = told.do(applied("web", "web", ingress=public()))
    packet = recorded(told, at, at)
    back = {
        "is_reply": True,
        "source": msgspec.to_builtins(packet.destination),
        "destination": msgspec.to_builtins(packet.source),
        "IP": {"source": packet.IP.destination, "destination": packet.IP.source},
        "l4": {"TCP": {"source_port": 80, "destination_port": 43_000}},
    }
    answer = why_flow(told.history, recorded(told, at, at, **http("http://web/admin", verdict="DROPPED", **back)))
    assert answer.flow is not None
    assert (answer.verdict, answer.request) == ("DENIED", "GET web/admin")
    assert answer.flow.note == "it is an answer: its request is what was judged"
    other = why_flow(told.history, recorded(told, at, at, **http("http://web/admin", verdict="FORWARDED")))
    assert other.flow is not None
    assert other.flow.note == f"the proxy's verdict was FORWARDED, and the rules of position {at} say DENIED"
    hidden = why_flow(told.history, recorded(told, at, at, **http(f"http://u:{REDACTED}@web/{REDACTED}")))
    assert hidden.flow is not None and hidden.flow.note.startswith("parts of it were left out")
    gone = why_flow(told.history, recorded(told, at, at, **http("") | {"l7": {"type": "REQUEST", "http": {}}}))
    assert gone.flow is not None
    assert (gone.request, gone.flow.note) == (
        "",
        "what was asked is not recorded any more, so it is the connection that was judged",
    )


def test_kafka_and_dns_are_judged_too(told: Story) -> None:
    rules = {"kafka": [{"role": "produce", "topic": "orders"}]}
    term = {"fromEndpoints": [selector("app=client")], "toPorts": [{**ports("80/TCP")[0], "rules": rules}]}
    at = told.do(applied("web", "web", ingress=[term]))
    for topic, verdict in (("orders", "ALLOWED"), ("others", "DENIED")):
        kafka = {"api_key": "produce", "api_version": 9, "correlation_id": 7, "topic": topic}
        flow = recorded(told, at, at, **http("") | {"l7": {"type": "REQUEST", "kafka": kafka}})
        found = why_flow(told.history, flow)
        assert (found.verdict, found.request) == (verdict, f"produce {topic}")
    names = {"dns": [{"matchPattern": "*.example.org"}]}
    out = {"toEndpoints": [selector("app=web")], "toPorts": [{**ports("80/TCP")[0], "rules": names}]}
    told.do(DeletePolicies(refs=(PolicyRef("CiliumNetworkPolicy", "shop", "web"),)))
    at = told.do(applied("client", "client", egress=[out]))
    for name, verdict in (("api.example.org.", "ALLOWED"), ("example.com.", "DENIED")):
        flow = recorded(told, at, at, **http("") | {"l7": {"type": "REQUEST", "dns": {"query": name}}})
        found = why_flow(told.history, flow)
        assert (found.verdict, found.request) == (verdict, name)


def test_an_excerpt_is_the_part_that_a_path_names() -> None:
    document = '{"spec":{"ingress":[{"a":1},{"b":[{"c":"x"}]}]}}'
    assert excerpt_of(document, "spec.ingress[1].b[0]") == "c: x"
    assert excerpt_of(document, "spec.ingress[1].b[0].c") == "x"
    assert excerpt_of(document, "spec.egress[0]") == excerpt_of(document, "spec.ingress[7]") == ""
