"""What rules say when they are read word for word is what the map state says when the kernel looks it up."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from cplane.domain.policy.lookup import lookup
from cplane.domain.policy.mapstate import MapKey
from cplane.domain.verdict import Direction
from tests.support import random_policies
from tests.support.builders import cnp, parsed, policy, upserted
from tests.support.effort import examples
from tests.support.literal import is_audited as is_only_audited
from tests.support.literal import judge, judge_audited
from tests.support.policies import (
    AS_PEER,
    DIRECTIONS,
    IDENTITIES,
    PODS,
    SUBJECTS,
    is_audited,
    packet,
    packets,
    repository,
    verdict,
)
from tests.support.strategies import documents, setting, settings, terms

pytestmark = pytest.mark.slow

RANDOM_CASES = examples(1200)
PACKETS = 40  # of a random case


def by_name(found):
    """At most one document of each kind, namespace and name: the last."""
    return list({(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]): d for d in found}.values())


def assert_alike(repo, found, around, subject, peer, name, protocol, port):
    asked, direction = packet(subject, peer, name, protocol, port), DIRECTIONS[name]
    where = (subject, peer, name, protocol, port)
    assert verdict(repo.state(subject), peer, direction, protocol, port) == judge(found, asked, around), where
    told = is_audited(repo, subject, peer, direction, protocol, port)
    assert told == judge_audited(found, asked, around), where


@given(found=st.lists(documents(), max_size=3), subject=st.sampled_from(sorted(SUBJECTS)), around=settings())
@profile(max_examples=examples(30), deadline=None)
def test_the_lookup_agrees_with_the_rules_read_literally(found, subject, around):
    found = by_name(found)
    repo = repository(*found, subjects=[subject], setting=around)
    for peer in AS_PEER:
        for name in DIRECTIONS:
            for protocol, port in packets(found):
                assert_alike(repo, found, around.around, subject, peer, name, protocol, port)


@pytest.mark.parametrize("seed", range(4))
def test_random_policies_packets_and_settings_agree_with_the_literal_reading(seed):
    for case in range(RANDOM_CASES // 4):
        assert_case(Random(f"{seed}/{case}"))


def assert_case(chance):
    found, around = by_name(random_policies.some(chance, random_policies.document, 0, 3)), setting(chance)
    subject = chance.choice(sorted(SUBJECTS))
    repo, asked = repository(*found, subjects=[subject], setting=around), packets(found)
    for _ in range(PACKETS):
        name = chance.choice(sorted(DIRECTIONS))
        assert_alike(
            repo, found, around.around, subject, chance.choice(sorted(IDENTITIES)), name, *chance.choice(asked)
        )


@given(found=st.lists(documents(), max_size=3), more=terms("ingress"), around=settings())
@profile(max_examples=examples(60), deadline=None)
def test_adding_an_allow_never_lifts_a_deny(found, more, around):
    found = by_name(found)
    added = cnp("added", subject={}, ingress=[more])
    before, after = repository(*found, setting=around), repository(*found, added, setting=around)
    for subject in PODS:
        for peer in IDENTITIES:
            for protocol, port in ((6, 80), (6, 85), (17, 53), (1, 8), (132, 8191)):
                if verdict(before.state(subject), peer, Direction.INGRESS, protocol, port) == "denied":
                    assert verdict(after.state(subject), peer, Direction.INGRESS, protocol, port) == "denied"


@given(found=st.lists(documents(), max_size=3))
@profile(max_examples=examples(50), deadline=None)
def test_what_is_only_audited_changes_nothing_that_is_enforced(found):
    found = by_name(found)
    all_of_them, enforced = repository(*found), repository(*(one for one in found if not is_only_audited(one)))
    for subject in PODS:
        with_plane, without = all_of_them.state(subject).entries(), enforced.state(subject).entries()
        assert {key: row._replace(audited=False) for key, row in with_plane.items()} == without


@given(found=st.lists(documents(), max_size=4))
@profile(max_examples=examples(80), deadline=None)
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
@profile(max_examples=examples(50), deadline=None)
def test_every_entry_names_who_made_it(found):
    found = by_name(found)
    repo = repository(*found)
    names = {str(policy(d).ref) for d in found} | {""}
    for subject in PODS:
        state = repo.state(subject)
        for key, entry in state.entries().items():
            origins = state.origins(key)
            assert origins
            assert {origin.policy for origin in origins} <= names
            assert bool(entry.cookie) == any(origin.policy for origin in origins)


@given(found=st.lists(documents(), min_size=1, max_size=3))
@profile(max_examples=examples(50), deadline=None)
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
@profile(max_examples=examples(150), deadline=None)
def test_a_document_that_was_accepted_is_read_the_same_way_again(document):
    assert parsed(document) == parsed(document)
    assert upserted(document) == upserted(document)
