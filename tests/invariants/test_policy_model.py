"""What rules say when they are read word for word is what the map state says when the kernel looks it up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.domain.policy.lookup import lookup
from cplane.domain.policy.mapstate import MapKey
from cplane.domain.verdict import Direction
from tests.support.builders import CLUSTER, cnp, policy, upserted
from tests.support.literal import judge
from tests.support.policies import DIRECTIONS, PODS, identities, packets, repository, verdict, who
from tests.support.strategies import documents, terms

pytestmark = pytest.mark.slow

SUBJECTS = (300, 301, 303)
EVERYONE = {number: who(number) for number in identities()}


def by_name(found):
    """At most one document of each kind, namespace and name: the last."""
    return list({(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d for d in found}.values())


@given(found=st.lists(documents(), max_size=3), subject=st.sampled_from(SUBJECTS))
@settings(max_examples=120, deadline=None)
def test_the_lookup_agrees_with_the_rules_read_literally(found, subject):
    found = by_name(found)
    state = repository(*found, subjects=[subject]).state(subject)
    asked = packets(found)
    for peer, labels in EVERYONE.items():
        for name, direction in DIRECTIONS.items():
            for protocol, port in asked:
                literal = judge(found, EVERYONE[subject], labels, name, protocol, port, cluster=CLUSTER)
                got = verdict(state, peer, direction, protocol, port)
                assert got == literal, (subject, peer, name, protocol, port)


@given(found=st.lists(documents(), max_size=3), more=terms("from"))
@settings(max_examples=100, deadline=None)
def test_adding_an_allow_never_lifts_a_deny(found, more):
    found = by_name(found)
    added = cnp("added", subject={}, ingress=[more])
    before, after = repository(*found), repository(*found, added)
    for subject in PODS:
        for peer in identities():
            for protocol, port in ((6, 80), (17, 53), (1, 8), (132, 8191)):
                if verdict(before.state(subject), peer, Direction.INGRESS, protocol, port) == "denied":
                    assert verdict(after.state(subject), peer, Direction.INGRESS, protocol, port) == "denied"


@given(found=st.lists(documents(), max_size=4))
@settings(max_examples=100, deadline=None)
def test_no_entry_is_covered_by_a_broader_one_of_higher_precedence(found):
    repo = repository(*by_name(found))
    for subject in PODS:
        entries = repo.state(subject).entries()
        for key, entry in entries.items():
            for bits in range(key.l4_bits):
                broader = covering(key, bits)
                assert broader not in entries or entries[broader].precedence <= entry.precedence


def covering(key, bits):
    if bits < 8:
        return key._replace(protocol=0, port=0, l4_bits=bits)
    behind = 24 - bits
    return key._replace(port=key.port >> behind << behind, l4_bits=bits)


@given(found=st.lists(documents(), max_size=3))
@settings(max_examples=50, deadline=None)
def test_every_entry_names_who_made_it(found):
    found = by_name(found)
    repo = repository(*found)
    names = {str(policy(d).ref) for d in found} | {""}
    for subject in PODS:
        state = repo.state(subject)
        for key in state.entries():
            origins = state.origins(key)
            assert origins
            assert {origin.policy for origin in origins} <= names


@given(found=st.lists(documents(), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_a_fragment_passes_only_where_every_port_of_its_protocol_would(found):
    repo = repository(*by_name(found))
    for subject in PODS:
        state = repo.state(subject)
        for peer in (1, 300, 303, 9):
            fragment = lookup(state.entry, peer, Direction.INGRESS, 6, 0, shown_bits=8)
            whole = (6, 0, 8) if fragment.key is not None and fragment.key.l4_bits else (0, 0, 0)
            if fragment.allowed:
                assert fragment.key is not None
                assert fragment.key == MapKey(fragment.key.identity, 0, *whole)


@given(document=documents())
@settings(max_examples=150, deadline=None)
def test_a_document_that_was_accepted_is_read_the_same_way_again(document):
    assert policy(document) == policy(document)
    assert upserted(document) == upserted(document)
