"""A selector cache that follows identities and selectors is one that is built from what there is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.domain.policy.selectorcache import SelectorCache
from cplane.domain.selectors import CidrSelector
from tests.support.builders import ccnp, policy
from tests.support.policies import identities
from tests.support.strategies import cidr_rules, selectors

pytestmark = pytest.mark.slow

IDENTITIES = identities()


@st.composite
def any_selectors(draw):
    """A selector as a rule of a clusterwide policy has it."""
    term = draw(
        st.one_of(
            selectors().map(lambda one: {"fromEndpoints": [one]}),
            cidr_rules().map(lambda one: {"fromCIDRSet": [one]}),
        )
    )
    return policy(ccnp(ingress=[term])).rules[0].terms[0].peers[0]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("identity"), st.sampled_from(sorted(IDENTITIES))),
        st.tuples(st.just("intern"), any_selectors()),
        st.tuples(st.just("release"), st.integers(0, 20)),
    ),
    max_size=60,
)


@given(steps)
@settings(deadline=None)
def test_incremental_is_from_scratch(done):
    cache, held, present = SelectorCache(), [], set()
    for what, value in done:
        if what == "intern":
            held.append(cache.intern(value))
        elif what == "release" and value < len(held):
            cache.release(held.pop(value))
        elif what == "identity":
            before = {one: set(one.numbers) for one in held}
            if value in present:
                present.discard(value)
                told = cache.remove(value)
            else:
                present.add(value)
                told = cache.add(value, *IDENTITIES[value])
            assert set(told) == {one for one in held if one.numbers != before[one]}
        assert all(one.numbers == expected(one.selector, present) for one in held)
    assert len(cache) == len(set(held))


def expected(selector, present):
    if isinstance(selector, CidrSelector):
        return {number for number in present if selector.matches(IDENTITIES[number][1])}
    return {number for number in present if selector.matches(IDENTITIES[number][0])}
