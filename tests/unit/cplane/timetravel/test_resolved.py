"""Why a rule by name selects an address or not: what the log has of answers."""

from cplane.cli.why_text import lines
from cplane.deciders.fqdn import Answer, Ended, ExpireNames, RecordAnswers
from cplane.timetravel import resolved
from cplane.timetravel.traffic import question_of
from cplane.timetravel.why import Why, why
from tests.support.builders import ports
from tests.support.churn import BEGAN_NS
from tests.support.scenario import pod
from tests.support.story import Story, applied

IP = "192.0.2.1"
BY_NAME = [{"toFQDNs": [{"matchPattern": "*.example"}], "toPorts": ports("443/TCP")}]


def answer(name: str = "a.example.", *ips: str, endpoint: int = 1) -> RecordAnswers:
    return RecordAnswers(answers=(Answer(endpoint, name, ips or (IP,), 30, "10.96.0.10", BEGAN_NS),))


def expired(reason: str = "ttl") -> ExpireNames:
    return ExpireNames(names=(Ended(1, "a.example.", (IP,), reason),))


def made(*commands, egress=BY_NAME) -> Story:
    policies = [applied("web", "web", egress=egress)] if egress else []
    return Story(pod("web", "k8s:app=web", ifindex=10), pod("db", "k8s:app=db", ifindex=11), *policies, *commands)


def asked(story: Story, at: int | str = "head", ip: str = IP) -> Why:
    now_ns = story.entries[-1].recorded_at_ns + 1
    return why(story.history, now_ns, question_of(source="shop/web", destination=ip, port="443/TCP"), at=str(at))


def test_an_address_that_was_never_in_an_answer_is_denied_for_that() -> None:
    found = asked(made(answer("a.example.", "192.0.2.2")))
    assert found.verdict == "DENIED"
    (said,) = found.names
    assert said.text == (
        f"{IP} was never in an answer to shop/web that the DNS proxy saw, so none makes toFQDNs select it"
    )
    assert said.event is None
    assert f"  {said.text}" in list(lines(found))


def test_an_address_that_another_was_told_is_allowed_to_all_of_the_node() -> None:
    found = asked(made(answer("a.example.", IP, endpoint=2)))
    assert found.verdict == "ALLOWED"
    assert found.names[1].text == f"shop/db was told {IP} for a.example., which makes it so for all of this node"


def test_an_address_that_was_told_is_allowed_by_the_name_and_the_answer_turned_the_verdict() -> None:
    story = made()
    end = story.do(answer())
    found = asked(story)
    assert (found.verdict, found.direction) == ("ALLOWED", "egress")
    (said,) = found.names
    assert said.text == (
        f"shop/web was told {IP} for a.example. by 10.96.0.10, to count for 30 s: "
        "toFQDNs *.example of its policies selects it"
    )
    assert said.event is not None
    assert found.turned is not None
    assert found.turned.object == "name a.example."
    assert said.event.position == found.turned.event.position <= end


def test_an_address_that_expired_is_said_to_have_and_when() -> None:
    for reason, why_not in (("ttl", "no answer had it any more"), ("limit", "more addresses than may count")):
        story = made(answer())
        before = len(story.entries)
        story.do(expired(reason), answer("b.example.", "192.0.2.7"))
        (said,) = asked(story).names
        assert said.text.startswith(f"{IP} was told to shop/web for a.example. and expired at 2026-01-01T00:00:")
        assert why_not in said.text
        assert said.event is not None
        assert said.event.position == before + 1
        assert asked(story).verdict == "DENIED"
        assert asked(story, before).verdict == "ALLOWED"


def test_a_name_that_nobody_selects_is_named() -> None:
    (said,) = asked(made(answer("a.test."))).names
    assert said.text.endswith("no toFQDNs of its policies selects that name")


def test_nothing_is_said_of_names_where_no_rule_is_by_name_and_nothing_was_told() -> None:
    assert asked(made(egress=None)).names == ()
    story = made()
    back = question_of(source="shop/web", destination="shop/db", port="443/TCP")
    assert why(story.history, story.entries[-1].recorded_at_ns + 1, back).names == ()


def test_a_search_that_ends_early_says_so(monkeypatch) -> None:
    monkeypatch.setattr(resolved, "SEARCHED_MAX", 2)
    (said,) = asked(made(*(answer(f"n{one}.example.", f"192.0.2.{one}") for one in range(2, 6)))).names
    assert "that the DNS proxy saw behind position" in said.text
