"""Which answers wait for the agent, and of which it is told at all."""

from cplane.proxy import dnsnames
from cplane.proxy.dnsnames import Names, Told


def told(*ips: str, ttl: int = 40, endpoint: str = "10.0.0.1", name: str = "a.example.") -> Told:
    return Told(endpoint, name, ips, ttl, "10.96.0.10")


def test_an_address_is_new_until_the_agent_knows_it() -> None:
    names = Names()
    assert names.learn(told("192.0.2.1"), 0) == (True, True)
    assert names.learn(told("192.0.2.1"), 1) == (True, True)
    names.confirm(told("192.0.2.1"), 1)
    assert names.learn(told("192.0.2.1"), 2) == (False, False)
    assert names.learn(told("192.0.2.1", "192.0.2.2"), 3) == (True, True)
    assert names.learn(told("192.0.2.1", endpoint="10.0.0.2"), 3) == (True, True)
    assert names.learn(told("192.0.2.1", name="b.example."), 3) == (True, True)


def test_the_agent_is_told_again_before_it_forgets() -> None:
    names = Names()
    names.learn(told("192.0.2.1"), 0)
    names.confirm(told("192.0.2.1"), 0)
    assert names.learn(told("192.0.2.1"), 9) == (False, False)
    assert names.learn(told("192.0.2.1"), 10) == (False, True)
    assert names.learn(told("192.0.2.1"), 39) == (False, True)
    assert names.learn(told("192.0.2.1"), 40) == (True, True), "the agent may have forgotten it"


def test_what_the_agent_missed_is_told_with_the_time_that_is_left() -> None:
    names = Names()
    names.learn(told("192.0.2.1"), 0)
    names.learn(told("192.0.2.2", ttl=20), 0)
    names.confirm(told("192.0.2.1"), 0)
    assert list(names.untold(5)) == [told("192.0.2.2", ttl=15)]
    assert list(names.untold(20)) == []
    names.forget_all()
    assert [(one.ips, one.ttl) for one in names.untold(5)] == [(("192.0.2.1",), 35), (("192.0.2.2",), 15)]


def test_what_counts_no_more_is_forgotten_and_what_was_answered_longest_ago_makes_room(monkeypatch) -> None:
    monkeypatch.setattr(dnsnames, "KEPT_MAX", 2)
    names = Names()
    for number in range(3):
        names.learn(told("192.0.2.1", endpoint=f"10.0.0.{number}"), number)
    assert [one.endpoint for one in names.untold(3)] == ["10.0.0.1", "10.0.0.2"]
    names.expire(41.5)
    assert [one.endpoint for one in names.untold(0)] == ["10.0.0.2"]


def test_an_endpoint_that_is_another_is_told_anew() -> None:
    names = Names()
    for endpoint in ("10.0.0.1", "10.0.0.2"):
        names.learn(told("192.0.2.1", endpoint=endpoint), 0)
        names.confirm(told("192.0.2.1", endpoint=endpoint), 0)
    names.forget("10.0.0.1")
    assert list(names.untold(0)) == [], "what the other was answered is not told for it"
    assert names.learn(told("192.0.2.1"), 1) == (True, True)
    assert names.learn(told("192.0.2.1", endpoint="10.0.0.2"), 1) == (False, False)
