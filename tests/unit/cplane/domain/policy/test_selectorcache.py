"""Which identities each selector selects."""

from ipaddress import ip_network

import pytest

from cplane.domain.identity import cidr_labels
from cplane.domain.labels import LabelSet
from cplane.domain.policy.selectorcache import SelectorCache
from cplane.domain.selectors import CidrSelector, LabelSelector, Operator, Requirement
from tests.support.builders import pod_labels


def app(*values, source="any"):
    return LabelSelector((Requirement(source, "app", Operator.IN, values),))


def test_a_selector_knows_the_identities_that_were_there_before_it():
    cache = SelectorCache()
    cache.add(300, pod_labels("app=web"))
    cache.add(301, pod_labels("app=api"))
    assert cache.intern(app("web")).numbers == {300}
    assert cache.intern(app("web", "api")).numbers == {300, 301}


def test_an_identity_that_comes_is_told_who_selects_it():
    cache = SelectorCache()
    web, either = cache.intern(app("web")), cache.intern(app("web", "api"))
    absent = cache.intern(LabelSelector((Requirement("any", "x", Operator.DOES_NOT_EXIST),)))
    exists = cache.intern(LabelSelector((Requirement("k8s", "app", Operator.EXISTS),)))
    other_source = cache.intern(app("web", source="container"))
    assert set(cache.add(300, pod_labels("app=web"))) == {web, either, absent, exists}
    assert set(cache.remove(300)) == {web, either, absent, exists}
    assert not any(one.numbers for one in (web, either, absent, exists, other_source))


def test_equal_selectors_are_one_object_until_their_last_user_is_gone():
    cache = SelectorCache()
    first, second = cache.intern(app("web")), cache.intern(app("web"))
    assert first is second
    cache.release(first)
    assert len(cache) == 1
    cache.release(second)
    assert len(cache) == 0
    assert cache.add(300, pod_labels("app=web")) == ()
    with pytest.raises(AssertionError, match="released more often"):
        cache.release(first)


def test_a_prefix_selects_only_what_stands_for_a_prefix():
    cache = SelectorCache()
    ten, hole = ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16")
    everything = cache.intern(CidrSelector(ip_network("0.0.0.0/0")))
    selecting = cache.intern(CidrSelector(ten, (hole,)))
    for number, prefix in ((1, ten), (2, hole), (3, ip_network("10.2.0.0/16"))):
        cache.add(number, cidr_labels(prefix, dual_stack=True), prefix)
    cache.add(300, pod_labels("app=web"))
    assert selecting.numbers == {1, 3}
    assert everything.numbers == {1, 2, 3}
    assert cache.intern(CidrSelector(hole)).numbers == {2}
    cache.release(selecting)
    cache.remove(3)
    assert everything.numbers == {1, 2}


def test_removing_an_identity_that_does_not_exist_changes_nothing():
    cache = SelectorCache()
    cache.intern(LabelSelector())
    assert cache.remove(7) == ()
    cache.add(7, LabelSet())
    assert 7 in cache
    with pytest.raises(AssertionError, match="exists already"):
        cache.add(7, LabelSet())
