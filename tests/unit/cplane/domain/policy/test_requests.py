"""Which requests rules let through: HTTP, Kafka, DNS."""

import time

import pytest

from cplane.domain.policy import regex
from cplane.domain.policy.dns import DnsRule
from cplane.domain.policy.http import HeaderMatch, HttpRequest, HttpRule, Secret
from cplane.domain.policy.kafka import API_KEYS, ROLES, KafkaRequest, KafkaRule
from cplane.domain.policy.redirect import L7Rules

HEADERS = {"x-a": "1", "x-b": "two words"}


@pytest.mark.parametrize(
    ("rule", "request_", "expected"),
    [
        (HttpRule(), HttpRequest("POST", "/x", "h"), True),
        (HttpRule(method="GET"), HttpRequest("GET"), True),
        (HttpRule(method="GET"), HttpRequest("GETS"), False),
        (HttpRule(method="GET|HEAD"), HttpRequest("HEAD"), True),
        (HttpRule(method="get"), HttpRequest("GET"), False),
        (HttpRule(path="/pub"), HttpRequest(path="/pub"), True),
        (HttpRule(path="/pub"), HttpRequest(path="/pub/x"), False),
        (HttpRule(path="/pub"), HttpRequest(path="/a/pub"), False),
        (HttpRule(path="/pub"), HttpRequest(path="/pub?x=1"), False),
        (HttpRule(path="/pub.*"), HttpRequest(path="/pub?x=1"), True),
        (HttpRule(path="/pub$"), HttpRequest(path="/pub"), True),
        (HttpRule(path="/[0-9]+"), HttpRequest(path="/42"), True),
        (HttpRule(path="/."), HttpRequest(path="/ü"), True),
        (HttpRule(path="/a", method="GET"), HttpRequest("POST", "/a"), False),
        (HttpRule(host="a.example"), HttpRequest(host="a.example"), True),
        (HttpRule(host="a.example"), HttpRequest(host="a.example:80"), False),
        (HttpRule(host="*("), HttpRequest(host="a"), False),
        (HttpRule(headers=("X-A",)), HttpRequest(headers=HEADERS), True),
        (HttpRule(headers=("X-C",)), HttpRequest(headers=HEADERS), False),
        (HttpRule(headers=("X-A 1",)), HttpRequest(headers=HEADERS), True),
        (HttpRule(headers=("X-A: 1",)), HttpRequest(headers=HEADERS), True),
        (HttpRule(headers=("X-A: 2",)), HttpRequest(headers=HEADERS), False),
        (HttpRule(headers=("X-A: [0-9]+",)), HttpRequest(headers=HEADERS), True),
        (HttpRule(headers=("X-A [0-9]",)), HttpRequest(headers={"x-a": "12"}), False),
        (HttpRule(headers=("X-A: (",)), HttpRequest(headers={"x-a": "("}), True),
        (HttpRule(headers=("X-A:",)), HttpRequest(headers={"x-a": ""}), True),
        (HttpRule(headers=("X-B: two words",)), HttpRequest(headers=HEADERS), True),
        (HttpRule(headers=("X-A", "X-C")), HttpRequest(headers=HEADERS), False),
        (HttpRule(header_matches=(HeaderMatch("X-A", "1"),)), HttpRequest(headers=HEADERS), True),
        (HttpRule(header_matches=(HeaderMatch("X-A", "2"),)), HttpRequest(headers=HEADERS), False),
        (HttpRule(header_matches=(HeaderMatch("X-A"),)), HttpRequest(headers=HEADERS), True),
        (HttpRule(header_matches=(HeaderMatch("X-C"),)), HttpRequest(headers=HEADERS), False),
        (HttpRule(header_matches=(HeaderMatch("X-A", secret=Secret("n", "s")),)), HttpRequest(headers=HEADERS), False),
    ],
)
def test_all_that_an_http_rule_says_must_match_as_a_whole(rule, request_, expected):
    assert rule.matches(request_) is expected


@pytest.mark.parametrize("mismatch", ["LOG", "ADD", "DELETE", "REPLACE"])
def test_a_header_that_is_only_logged_or_mended_keeps_nothing_back(mismatch):
    assert HttpRule(header_matches=(HeaderMatch("X-C", "1", None, mismatch),)).matches(HttpRequest(headers=HEADERS))


def test_an_http_rule_says_what_it_lets_through():
    assert str(HttpRule()) == "any request"
    rule = HttpRule("GET", "/a", "b", ("X-A",), (HeaderMatch("X-B", "c"), HeaderMatch("X-C", secret=Secret("n", "s"))))
    assert str(rule) == "GET /a host b X-A X-B: c X-C: secret"


@pytest.mark.parametrize(
    ("rule", "request_", "expected"),
    [
        (KafkaRule(), KafkaRequest(7), True),
        (KafkaRule(ROLES["produce"]), KafkaRequest(0), True),
        (KafkaRule(ROLES["produce"]), KafkaRequest(1), False),
        (KafkaRule(ROLES["consume"]), KafkaRequest(1), True),
        (KafkaRule(ROLES["consume"]), KafkaRequest(0), False),
        (KafkaRule(version=2), KafkaRequest(0, 2), True),
        (KafkaRule(version=2), KafkaRequest(0, 3), False),
        (KafkaRule(version=0), KafkaRequest(0, 0), True),
        (KafkaRule(client_id="a"), KafkaRequest(0, client_id="a"), True),
        (KafkaRule(client_id="a"), KafkaRequest(0, client_id="A"), False),
        (KafkaRule(topic="t"), KafkaRequest(0, topics=("t",)), True),
        (KafkaRule(topic="t"), KafkaRequest(0, topics=("u",)), False),
        (KafkaRule(topic="t"), KafkaRequest(0, topics=("t", "u")), False),
        (KafkaRule(topic="t"), KafkaRequest(3), True),  # and the answer is about that topic alone
        (KafkaRule(ROLES["produce"], topic="t"), KafkaRequest(1), False),
        (KafkaRule(version=2, topic="t"), KafkaRequest(3, 3), False),
        (KafkaRule(topic="t"), KafkaRequest(18), True),
        (KafkaRule(topic="t"), KafkaRequest(12), True),
        (KafkaRule(topic="t"), KafkaRequest(37, topics=("u",)), False),
    ],
)
def test_all_that_a_kafka_rule_says_must_match_and_every_topic_be_allowed(rule, request_, expected):
    assert L7Rules("kafka", (rule,)).allow(request_) is expected


def test_topics_of_one_request_may_be_allowed_by_several_rules():
    rules = L7Rules("kafka", (KafkaRule(topic="t"), KafkaRule(topic="u")))
    assert rules.allow(KafkaRequest(0, topics=("t", "u", "t")))
    assert not rules.allow(KafkaRequest(0, topics=("t", "v")))


def test_the_keys_and_roles_of_kafka_are_those_of_its_protocol():
    assert len(API_KEYS) == 34
    assert {name: API_KEYS[name] for name in ("produce", "fetch", "metadata", "apiversions", "alterconfigs")} == {
        "produce": 0,
        "fetch": 1,
        "metadata": 3,
        "apiversions": 18,
        "alterconfigs": 33,
    }
    assert ROLES["produce"] == {0, 3, 18}
    assert ROLES["consume"] == {1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18}


def test_a_kafka_rule_says_what_it_lets_through():
    assert str(KafkaRule()) == "any request"
    assert str(KafkaRule(ROLES["produce"], None, "c", "t")) == "produce topic t client c"
    assert str(KafkaRule(frozenset({1}))) == "fetch"


@pytest.mark.parametrize(
    ("rule", "asked", "expected"),
    [
        (DnsRule("a.example."), "a.example", True),
        (DnsRule("a.example."), "A.EXAMPLE.", True),
        (DnsRule("a.example."), "b.a.example", False),
        (DnsRule("", "*.example"), "a.example", True),
        (DnsRule("", "*.example"), "a.b.example", False),
        (DnsRule("a.example.", "b.*"), "b.example", True),
        (DnsRule(), "a.example", False),
    ],
)
def test_a_dns_rule_matches_its_name_or_its_pattern(rule, asked, expected):
    assert rule.matches(asked) is expected
    assert L7Rules("dns", (rule,)).allow(asked) is expected


def test_one_rule_of_several_is_enough_and_none_lets_nothing_through():
    rules = L7Rules("http", (HttpRule(path="/a"), HttpRule(path="/b")))
    assert rules.allow(HttpRequest(path="/b"))
    assert not rules.allow(HttpRequest(path="/c"))
    assert not L7Rules("http").allow(HttpRequest())


def test_a_request_of_another_protocol_is_not_allowed():
    everything = [L7Rules("http", (HttpRule(),)), L7Rules("kafka", (KafkaRule(),)), L7Rules("dns", (DnsRule("", "*"),))]
    requests = [HttpRequest(), KafkaRequest(0), "a.example"]
    assert [[rules.allow(one) for one in requests] for rules in everything] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


@pytest.mark.parametrize("expression", ["(a*)*b", "(a|aa)+$", "(.*)(.*)(.*)(.*)(.*)x", "a{0,900}" * 3])
def test_no_expression_takes_more_than_linear_time(expression):
    started = time.process_time()
    assert regex.problem(expression) or not regex.matches(expression, "a" * 20_000 + "!")
    assert time.process_time() - started < 2


def test_an_expression_that_would_need_too_much_memory_is_a_problem_that_can_be_shown():
    assert regex.problem("((a{100}){100}){100}")
    assert len(regex.problem("(" * 5_000)) <= 120
