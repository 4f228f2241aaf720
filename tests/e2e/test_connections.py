"""Connections that are open when policies change: cut when they are denied now, undisturbed when they are not."""

import os
from collections.abc import Iterator

import pytest

from tests.support.pods import BRIEF_S, Conversation
from tests.support.site import Site, policy
from tests.support.streams import streams

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

FRONTEND_ONLY = policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: frontend}}]")
FRONTEND_BY_PORT = policy(
    "backend",
    "backend",
    """
ingress:
- fromEndpoints: [{matchLabels: {app: frontend}}]
  toPorts: [{ports: [{port: "8080"}]}]
""",
)


@pytest.fixture
def talks(place: Site) -> Iterator[dict[tuple[str, int], Conversation]]:
    """Open connections to the backend, by pod and IP family."""
    backend = place["backend"]
    yield {
        (name, family): place[name].connect(backend.address(family))
        for name in ("frontend", "visitor")
        for family in (4, 6)
    }
    for name in ("frontend", "visitor"):
        for connection in place[name].connections:
            connection.close()
        place[name].connections.clear()


def test_a_new_policy_cuts_the_connections_that_it_denies_and_no_others(
    place: Site, talks: dict[tuple[str, int], Conversation]
) -> None:
    assert all(talk.goes_on() for talk in talks.values())
    place.apply(FRONTEND_ONLY)
    for (name, family), talk in talks.items():
        allowed = name == "frontend"
        assert talk.goes_on() if allowed else not talk.goes_on(BRIEF_S), (name, family)


def test_a_connection_that_was_cut_goes_on_when_it_is_allowed_again(
    place: Site, talks: dict[tuple[str, int], Conversation]
) -> None:
    place.apply(FRONTEND_ONLY)
    assert not talks["visitor", 4].goes_on(BRIEF_S)
    place.agent.cplane("policy", "delete", "backend", "-n", "demo", "--wait")
    assert talks["visitor", 4].goes_on()


def test_a_denied_port_cuts_the_connection_of_a_peer_that_is_otherwise_allowed(
    place: Site, talks: dict[tuple[str, int], Conversation]
) -> None:
    place.apply(FRONTEND_ONLY)
    assert talks["frontend", 6].goes_on()
    denied = 'ingressDeny:\n- fromEntities: [all]\n  toPorts: [{ports: [{port: "8080", protocol: TCP}]}]'
    place.apply(policy("shut", "backend", denied))
    assert not talks["frontend", 6].goes_on(BRIEF_S)


def test_new_labels_cut_the_connections_that_only_the_old_ones_allowed(
    place: Site, talks: dict[tuple[str, int], Conversation]
) -> None:
    place.apply(FRONTEND_ONLY)
    endpoint = next(one for one in place.agent.ask("endpoint", "list")["endpoints"] if one["pod"] == "frontend")
    others = [label for label in endpoint["labels"] if not label.startswith("k8s:app=")]
    assert talks["frontend", 4].goes_on()
    try:
        place.agent.cplane("endpoint", "relabel", str(endpoint["id"]), "app=stranger", *others, "--wait")
        assert not talks["frontend", 4].goes_on(BRIEF_S)
    finally:
        place.agent.cplane("endpoint", "relabel", str(endpoint["id"]), "app=frontend", *others, "--wait")
    assert talks["frontend", 4].goes_on()


def test_no_datagram_is_lost_and_none_slips_through_while_policies_change(place: Site) -> None:
    """What stays allowed is undisturbed by changes around it, and what stays denied never gets through one."""
    backend = place["backend"]
    place.apply(FRONTEND_ONLY)
    ends = [(place[name], backend.address(family)) for name in ("frontend", "visitor") for family in (4, 6)]
    with streams(*ends) as running:
        for number in range(3):
            place.apply(FRONTEND_BY_PORT, policy("egress", "frontend", "egress:\n- toEntities: [all]"))
            place.apply(FRONTEND_ONLY, policy(f"other-{number}", "visitor", "ingress: [{}]"))
            place.agent.cplane("policy", "delete", "egress", "-n", "demo", "--wait")
        allowed4, allowed6, denied4, denied6 = (stream.end() for stream in running)
    for allowed in (allowed4, allowed6):
        assert allowed.sent > 500
        assert allowed.lost == []
    assert denied4.answered == denied6.answered == 0
