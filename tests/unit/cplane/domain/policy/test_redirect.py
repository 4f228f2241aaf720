"""What a proxy is asked to do, and which of several redirects has the traffic."""

import pytest

from cplane.domain.policy.http import HeaderMatch, HttpRule, Secret
from cplane.domain.policy.kafka import KafkaRule
from cplane.domain.policy.redirect import L7Rules, Listener, ParserRule, Redirect, Tls
from tests.support.builders import cnp, policy, ports

CONFIG = {"kind": "CiliumEnvoyConfig", "name": "e"}
SECRET = {"namespace": "n", "name": "s"}


def redirect(*texts, **fields):
    (rule,) = policy(cnp(egress=[{"toPorts": [{**ports(*(texts or ("80/TCP",)))[0], **fields}]}])).rules
    return rule.terms[0].redirect


def test_rules_of_requests_are_read_with_all_they_say():
    written = {
        "method": "GET",
        "path": "/a",
        "host": "b",
        "headers": ["X-A", "X-B: b"],
        "headerMatches": [
            {"name": "c", "value": "d", "mismatch": "LOG"},
            {"name": "e", "secret": SECRET, "mismatch": ""},
        ],
    }
    matches = (HeaderMatch("c", "d", None, "LOG"), HeaderMatch("e", "", Secret("n", "s")))
    expected = HttpRule("GET", "/a", "b", ("X-A", "X-B: b"), matches)
    assert redirect(rules={"http": [written, written]}).rules == L7Rules("http", (expected,))


def test_an_empty_rule_is_a_rule_and_an_empty_list_is_none():
    assert redirect(rules={"http": [{}]}).rules == L7Rules("http", (HttpRule(),))
    assert redirect(rules={"kafka": [{}]}).rules == L7Rules("kafka", (KafkaRule(),))
    for empty in ({}, {"http": []}, {"dns": []}, {"l7proto": ""}):
        assert redirect(rules=empty) is None


def test_another_parser_gets_pairs_of_name_and_value():
    found = redirect(rules={"l7proto": "r2d2", "l7": [{"cmd": "READ", "arg": "x"}, {}]}).rules
    assert found == L7Rules("r2d2", (ParserRule((("arg", "x"), ("cmd", "READ"))), ParserRule(())))
    assert redirect(rules={"l7proto": "r2d2"}).rules == L7Rules("r2d2")


def test_certificates_come_from_secrets():
    written = {"secret": SECRET, "trustedCA": "ca", "certificate": "crt", "privateKey": "key"}
    found = redirect(terminatingTLS=written, originatingTLS={"secret": {"name": "t"}})
    assert found.terminating == Tls(Secret("n", "s"), "ca", "crt", "key")
    assert found.originating == Tls(Secret("", "t"))


def test_server_names_are_in_lower_case_each_once():
    assert redirect(serverNames=["A.b", "a.B", "*.c"]).server_names == ("a.b", "*.c")


def test_a_listener_is_one_of_a_configuration():
    assert redirect(listener={"envoyConfig": CONFIG, "name": "l"}).listener == Listener("CiliumEnvoyConfig", "e", "l")
    assert redirect(listener={"envoyConfig": CONFIG, "name": "l", "priority": 7}).listener.priority == 7


@pytest.mark.parametrize(
    ("fields", "priority", "parser"),
    [
        ({"listener": {"envoyConfig": CONFIG, "name": "l", "priority": 1}}, 1, "CiliumEnvoyConfig/e/l"),
        ({"rules": {"http": [{}]}}, 101, "http"),
        ({"rules": {"kafka": [{}]}}, 106, "kafka"),
        ({"rules": {"l7proto": "r2d2"}}, 111, "r2d2"),
        ({"serverNames": ["a"]}, 116, "tls"),
        ({"originatingTLS": {"secret": SECRET}}, 116, "tls"),
        ({"rules": {"http": [{}]}, "terminatingTLS": {"secret": SECRET}}, 101, "http"),
        ({"rules": {"dns": [{}]}}, 121, "dns"),
        ({"listener": {"envoyConfig": CONFIG, "name": "l"}}, 126, "CiliumEnvoyConfig/e/l"),
    ],
)
def test_the_smallest_priority_has_the_traffic(fields, priority, parser):
    found = redirect(**fields)
    assert (found.priority, found.parser, str(found)) == (priority, parser, parser)
    assert isinstance(found, Redirect)
