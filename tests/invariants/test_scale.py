"""The clusters of the benchmarks are what they say, and what comes to a large one costs what it changes."""

import pytest

from cplane.domain.policy.mapstate import MapState
from cplane.projections.policymap import PolicyMapProjection
from tests.support.builders import policy
from tests.support.changing import entries
from tests.support.scale import Scale, drain, many_entries

pytestmark = pytest.mark.slow

SMALL = Scale(identities=1_000, rules=100, subjects=10)


def test_a_scale_is_the_same_each_time_and_every_subject_has_rules():
    one, other = SMALL.repository(), SMALL.repository()
    assert entries(one) == entries(other)
    assert sorted(one.subjects()) == sorted(SMALL.number(index) for index in SMALL.subject_indices())
    assert len(list(one.subjects())) == 10
    assert all(len(one.about(subject)) == 10 for subject in one.subjects())


def test_its_events_lead_to_the_same_entries():
    projection = PolicyMapProjection()
    for _, event in SMALL.events():
        projection.apply(event)
    repository = SMALL.repository()
    assert len(projection.table()) == len(entries(repository))
    for subject in repository.subjects():
        assert state(projection, subject) == repository.state(subject).entries()


def state(projection, subject):
    found = projection.state(subject)
    assert isinstance(found, MapState)
    return found.entries()


def test_what_comes_changes_little_and_what_goes_takes_it_along():
    repository = SMALL.repository()
    drain(repository)
    before = entries(repository)
    repository.add_identity(*SMALL.newcomer())
    assert 0 < drain(repository) < 10
    repository.upsert(policy(SMALL.another_rule()))
    assert drain(repository) == 92  # all identities in its namespace but those of the tier that is denied
    index = SMALL.another_subject()
    repository.remove_subject(SMALL.number(index))
    drain(repository)
    repository.add_subject(SMALL.number(index), SMALL.labels(index))
    assert 0 < drain(repository) < 3_000
    repository.delete(policy(SMALL.another_rule()).ref)
    repository.remove_identity(SMALL.newcomer()[0])
    drain(repository)
    assert entries(repository) == before


def test_a_policy_can_have_as_many_entries_as_a_subject_may():
    repository, subject = many_entries(16_000)
    assert len(repository.state(subject).entries()) == 16_002
