"""Policies as files, real packets as judges: pods, the node itself, and the world behind it."""

import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from cplane.domain.verdict import DropReason
from tests.support import asking
from tests.support.pods import BRIEF_S, PATIENT_S, Asked, Pod
from tests.support.site import WORLD4, WORLD6, Site, policy

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

PODS = ("frontend", "backend", "visitor")
EVERYBODY = (*PODS, "host", "world")


def to_backend(allowed: Callable[[Asked], bool]) -> Callable[[Asked], bool]:
    """The rule holds for what goes to the backend; all else is allowed, and so is what the node sends to its pods."""
    return lambda asked: asked.target != "backend" or asked.source == "host" or allowed(asked)


def from_backend(allowed: Callable[[Asked], bool]) -> Callable[[Asked], bool]:
    """The rule holds for what comes from the backend; all else is allowed."""
    return lambda asked: asked.source != "backend" or allowed(asked)


def passes(source: Pod, address: str, port: int, *, expected: bool, kind: int = socket.SOCK_STREAM) -> bool:
    """Whether a packet gets to a port where nobody listens, and the refusal back: no server is needed for that."""

    def inside() -> bool:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as asking_it:
            asking_it.settimeout(PATIENT_S if expected else BRIEF_S)
            try:
                asking_it.connect((address, port))
                asking_it.send(b"?")
                asking_it.recv(1)
            except TimeoutError:
                return False
            except ConnectionRefusedError:
                return True
            return True  # somebody listens there after all

    return source.netns.run(inside)


def wrong_ports(source: Pod, target: Pod, expected: Mapping[int, bool]) -> list[str]:
    """The TCP ports of the target that are open and should not be, or the other way round, by both families."""

    def wrong(asked: tuple[str, int]) -> str:
        address, port = asked
        return "" if passes(source, address, port, expected=expected[port]) is expected[port] else f"{address} {port}"

    with ThreadPoolExecutor(16) as asking_them:
        everything = [(address, port) for address in (target.ipv4, target.ipv6) for port in expected]
        return [answer for answer in asking_them.map(wrong, everything) if answer]


def dropped(place: Site) -> set[int]:
    """The reasons of all drops that hubble has."""
    return {flow.drop_reason_desc for flow in asking.flows(place.agent)}


def test_without_a_policy_everybody_reaches_everybody(place: Site) -> None:
    assert place.wrong(lambda _: True, place.questions(EVERYBODY)) == []


def test_a_policy_lets_in_one_peer_by_one_protocol_and_nobody_else(place: Site) -> None:
    place.apply(
        policy(
            "backend",
            "backend",
            """
ingress:
- fromEndpoints: [{matchLabels: {app: frontend}}]
  toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
""",
        )
    )
    rule = to_backend(lambda asked: asked.source == "frontend" and asked.protocol == "tcp")
    assert place.wrong(rule, place.questions(EVERYBODY)) == []
    assert place.unequal() == []


@pytest.mark.parametrize("protocol", ["UDP", "ANY"])
def test_a_port_is_open_for_the_protocols_that_are_named(place: Site, protocol: str) -> None:
    ports = f'toPorts: [{{ports: [{{port: "8080", protocol: {protocol}}}]}}]'
    place.apply(policy("backend", "backend", f"ingress:\n- {ports}"))
    open_for = {"UDP": {"udp"}, "ANY": {"tcp", "udp"}}[protocol]
    rule = to_backend(lambda asked: asked.protocol in open_for)
    assert place.wrong(rule, place.questions(PODS)) == []


def test_echo_requests_pass_where_only_they_are_named(place: Site) -> None:
    place.apply(
        policy("backend", "backend", "ingress:\n- icmps: [{fields: [{type: 8, family: IPv4}]}]"),
    )
    rule = to_backend(lambda asked: asked.protocol == "icmp" and asked.family == 4)
    assert place.wrong(rule, place.questions(PODS)) == []


def test_what_is_denied_stays_denied_whatever_allows_it(place: Site) -> None:
    place.apply(
        policy("open", "backend", "ingress:\n- fromEntities: [all]"),
        policy("shut", "backend", "ingressDeny:\n- fromEndpoints: [{matchLabels: {app: visitor}}]"),
    )
    rule = to_backend(lambda asked: asked.source != "visitor")
    assert place.wrong(rule, place.questions(EVERYBODY)) == []


def test_a_denied_port_is_shut_and_the_ports_beside_it_are_open(place: Site) -> None:
    place.apply(
        policy(
            "backend",
            "backend",
            """
ingress: [{fromEntities: [all]}]
ingressDeny:
- fromEntities: [all]
  toPorts: [{ports: [{port: "9000", protocol: TCP}]}]
""",
        )
    )
    frontend, backend = place["frontend"], place["backend"]
    assert wrong_ports(frontend, backend, {8999: True, 9000: False, 9001: True}) == []
    for address in (backend.ipv4, backend.ipv6):
        assert passes(frontend, address, 9000, expected=True, kind=socket.SOCK_DGRAM)


def test_a_range_of_ports_is_open_from_its_first_to_its_last_port(place: Site) -> None:
    ports = 'toPorts: [{ports: [{port: "9000", endPort: 9099, protocol: TCP}]}]'
    place.apply(policy("backend", "backend", f"ingress:\n- {ports}"))
    expected = {8999: False, 9000: True, 9063: True, 9064: True, 9099: True, 9100: False}
    assert wrong_ports(place["frontend"], place["backend"], expected) == []


@pytest.mark.parametrize("entity", ["host", "world", "cluster"])
def test_an_entity_may_enter_and_others_may_not(place: Site, entity: str) -> None:
    place.apply(policy("backend", "backend", f"ingress:\n- fromEntities: [{entity}]"))
    members = {"host": {"host"}, "world": {"world"}, "cluster": {"host", *PODS}}[entity]
    rule = to_backend(lambda asked: asked.source in members)
    assert place.wrong(rule, place.questions(EVERYBODY)) == []


@pytest.mark.parametrize("entity", ["host", "world"])
def test_a_pod_may_go_to_an_entity_and_nowhere_else(place: Site, entity: str) -> None:
    place.apply(policy("backend", "backend", f"egress:\n- toEntities: [{entity}]"))
    rule = from_backend(lambda asked: asked.target == entity)
    assert place.wrong(rule, place.questions(EVERYBODY)) == []


def test_prefixes_of_the_world_are_let_in_and_exceptions_kept_out(place: Site) -> None:
    place.apply(
        policy(
            "backend",
            "backend",
            f"""
ingress:
- fromCIDR: [{WORLD4}/32]
- fromCIDRSet: [{{cidr: "2001:db8::/32", except: ["{WORLD6}/128"]}}]
""",
        )
    )
    rule = to_backend(lambda asked: asked.source == "world" and asked.family == 4)
    assert place.wrong(rule, place.questions(EVERYBODY)) == []
    assert place.unequal() == []


def test_a_pod_reaches_the_prefixes_that_it_may_and_no_others(place: Site) -> None:
    place.apply(policy("backend", "backend", 'egress:\n- toCIDR: ["2001:db8::/64"]'))
    rule = from_backend(lambda asked: asked.target == "world" and asked.family == 6)
    assert place.wrong(rule, place.questions(EVERYBODY)) == []


def test_a_connection_needs_the_sender_and_the_receiver_to_agree(place: Site) -> None:
    place.apply(
        policy("out", "frontend", "egress:\n- toEndpoints: [{matchLabels: {app: backend}}]"),
        policy("in", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: visitor}}]"),
    )

    def rule(asked: Asked) -> bool:
        leaves = asked.source != "frontend" or asked.target == "backend"
        enters = asked.target != "backend" or asked.source == "visitor"
        return leaves and enters

    assert place.wrong(rule, place.questions(PODS)) == []


def test_a_policy_that_is_replaced_counts_no_more_and_one_that_is_deleted_does_not_either(place: Site) -> None:
    place.apply(policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: frontend}}]"))
    questions = place.questions(PODS, ("tcp",))
    assert place.wrong(to_backend(lambda asked: asked.source == "frontend"), questions) == []
    place.apply(policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: visitor}}]"))
    assert place.wrong(to_backend(lambda asked: asked.source == "visitor"), questions) == []
    place.agent.cplane("policy", "delete", "backend", "-n", "demo", "--wait")
    assert place.wrong(lambda _: True, questions) == []


def test_new_labels_change_who_a_pod_is(place: Site) -> None:
    place.apply(policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: frontend}}]"))
    endpoint = next(one for one in place.agent.ask("endpoint", "list")["endpoints"] if one["pod"] == "visitor")
    others = [label for label in endpoint["labels"] if not label.startswith("k8s:app=")]
    questions = place.questions(PODS, ("tcp", "icmp"))
    try:
        place.agent.cplane("endpoint", "relabel", str(endpoint["id"]), "app=frontend", *others, "--wait")
        assert place.wrong(lambda _: True, questions) == []
        assert place.unequal() == []
    finally:
        place.agent.cplane("endpoint", "relabel", str(endpoint["id"]), "app=visitor", *others, "--wait")
    assert place.wrong(to_backend(lambda asked: asked.source == "frontend"), questions) == []


def test_a_policy_of_another_namespace_means_other_pods(place: Site) -> None:
    place.apply(policy("backend", "backend", "ingress: [{}]", namespace="elsewhere"))
    assert place.wrong(lambda _: True, place.questions(PODS, ("tcp",))) == []


def test_an_address_that_a_pod_does_not_have_is_no_way_in(place: Site) -> None:
    """A pod that sends with another pod's address is refused, also by a policy that would let the other in."""
    place.apply(policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: frontend}}]"))
    visitor, frontend, backend = place["visitor"], place["frontend"], place["backend"]
    visitor.netns.ip("address", "add", f"{frontend.ipv4}/32", "dev", "lo")

    def lying() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((frontend.ipv4, 0))
            sock.settimeout(BRIEF_S)
            sock.sendto(b"hello\n", (backend.ipv4, 8080))
            try:
                return sock.recv(16) == b"hello\n"
            except TimeoutError:
                return False

    try:
        assert not visitor.netns.run(lying)
        refused = DropReason.INVALID_SOURCE_IP
        asking.until(lambda: refused in dropped(place), f"a flow that was dropped for reason {refused}")
    finally:
        visitor.netns.ip("address", "del", f"{frontend.ipv4}/32", "dev", "lo")
