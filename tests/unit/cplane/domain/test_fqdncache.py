"""Addresses of names count as long as answers say, and as long as connections live that began then."""

from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.fqdncache import LIMIT, TTL, Held, Lifetimes, Limits

A, B = "a.example.", "b.example."


def made(selected=lambda _name: True, **limits) -> Lifetimes:
    return Lifetimes(Limits(**limits), selected)


def test_an_address_counts_for_its_lifetime_and_is_over_then() -> None:
    cache = made()
    cache.learn(1, A, ("192.0.2.1", "192.0.2.2"), 30, now=100)
    cache.learn(1, A, ("192.0.2.2",), 30, now=110)
    assert cache.over(129) == ()
    assert cache.left(Held(1, A, "192.0.2.1"), 110) == 20
    assert cache.over(130) == (Held(1, A, "192.0.2.1"),)
    assert cache.over(140) == (Held(1, A, "192.0.2.1"), Held(1, A, "192.0.2.2"))
    assert cache.left(Held(1, A, "192.0.2.1"), 140) == 0


def test_the_least_lifetime_and_the_grace_are_added() -> None:
    cache = made(min_ttl_s=60, grace_s=5)
    cache.learn(1, A, ("192.0.2.1",), 0, now=0)
    assert cache.over(64.9) == ()
    assert len(cache.over(65)) == 1


def test_what_is_over_counts_while_connections_to_it_are_open() -> None:
    cache = made()
    one = Held(1, A, "192.0.2.1")
    cache.learn(1, A, ("192.0.2.1",), 1, now=0)
    assert list(cache.dead(cache.over(5), {one})) == []
    assert list(cache.dead(cache.over(6), ())) == [(one, TTL)]
    cache.learn(1, A, ("192.0.2.1",), 1, now=6)
    assert cache.over(6.5) == ()
    assert cache.over(7) == (one,)
    cache.forget([one])
    assert (len(cache), cache.over(100)) == (0, ())


def test_a_name_with_too_many_addresses_keeps_the_newest_and_those_with_connections() -> None:
    cache = made(ips_per_name=2)
    for number in range(4):
        cache.learn(1, A, (f"192.0.2.{number}",), 300, now=number)
    over = cache.over(4)
    assert over == (Held(1, A, "192.0.2.0"), Held(1, A, "192.0.2.1"))
    assert list(cache.dead(over, {over[0]})) == [(over[1], LIMIT)]


def test_only_so_many_are_kept_by_their_connections_alone() -> None:
    cache = made(deferred=2)
    for number in range(4):
        cache.learn(1, A, (f"192.0.2.{number}",), number, now=0)
    cache.learn(2, A, ("192.0.2.0",), 0, now=0)
    over = cache.over(10)
    assert [held.ip for held, reason in cache.dead(over, set(over)) if reason == LIMIT] == ["192.0.2.0", "192.0.2.1"]


def test_names_that_nobody_selects_are_kept_longer_until_somebody_does() -> None:
    selected: set[str] = {A}
    cache = made(selected.__contains__, unselected_s=3600)
    cache.learn(1, A, ("192.0.2.1",), 30, now=0)
    cache.learn(1, B, ("192.0.2.2",), 30, now=0)
    assert [held.name for held in cache.over(100)] == [A]
    selected.add(B)
    cache.again()
    assert [held.name for held in cache.over(100)] == [A, B]


@given(
    st.lists(
        st.tuples(st.integers(1, 2), st.sampled_from([A, B]), st.integers(0, 3), st.integers(0, 20), st.booleans())
    )
)
def test_nothing_is_over_early_and_nothing_is_forgotten_that_counts(steps) -> None:
    cache, told = made(unselected_s=0), {}
    for now, (endpoint, name, ip, ttl, sweep) in enumerate(steps):
        held = Held(endpoint, name, f"192.0.2.{ip}")
        cache.learn(endpoint, name, (held.ip,), ttl, now)
        told[held] = max(now + ttl, told.get(held, 0) if told.get(held, 0) > now else 0)
        if sweep:
            over = cache.over(now)
            assert set(over) == {one for one, until in told.items() if until <= now}
            dead = [one for one, _ in cache.dead(over, ())]
            cache.forget(dead)
            for one in dead:
                del told[one]
    assert len(cache) == len(told)
