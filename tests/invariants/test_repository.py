"""A repository in which everything comes and goes, in any order, is one that is built from what there is."""

from random import Random

import pytest

from cplane.domain.verdict import Direction
from tests.support.changing import Changing, entries
from tests.support.effort import examples
from tests.support.policies import IDENTITIES

pytestmark = pytest.mark.slow

HISTORIES = examples(240)
STEPS = 40


@pytest.mark.parametrize("seed", range(4))
def test_incremental_is_from_scratch_in_any_order(seed):
    for history in range(HISTORIES // 4):
        chance = Random(f"{seed}/{history}")
        world = changed(chance, STEPS)
        scratch = world.from_scratch()
        assert entries(world.repository) == entries(scratch)
        for number in scratch.subjects():
            one, other = world.repository.state(number), scratch.state(number)
            for direction in Direction:
                assert one.is_enforced(direction) == other.is_enforced(direction)
                assert names(one.demanding(direction)) == names(other.demanding(direction))


@pytest.mark.parametrize("seed", range(2))
def test_the_changes_lead_to_the_entries_however_often_they_are_asked_for(seed):
    for history in range(HISTORIES // 4):
        chance = Random(f"{seed}/{history}/drained")
        world = changed(chance, chance.randrange(STEPS))
        for _ in range(4):
            world.step(chance)
            world.drain()
            assert world.rows == entries(world.repository)


@pytest.mark.parametrize("seed", range(2))
def test_what_is_left_again_leaves_nothing(seed):
    for history in range(HISTORIES // 8):
        world = changed(Random(f"{seed}/{history}/emptied"), STEPS)
        for number in tuple(world.subjects):
            world.subject(number)
        for ref in tuple(world.policies):
            world.repository.delete(ref)
        world.drain()
        assert not world.rows
        assert not len(world.repository._peers)
        assert not len(world.repository._subjects)


def test_there_are_identities_of_every_kind():
    labels = {label.source for found, _ in IDENTITIES.values() for label in found}
    assert labels == {"k8s", "container", "reserved", "cidr", "fqdn"}


def changed(chance, steps):
    world = Changing()
    for _ in range(steps):
        world.step(chance)
    world.drain()
    assert world.rows == entries(world.repository)
    return world


def names(rules):
    return sorted((one.ref, one.rule.path) for one in rules)
