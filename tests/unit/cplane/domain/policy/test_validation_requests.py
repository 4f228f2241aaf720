"""Every reason why what a proxy would have to do is refused: rules of requests, listeners, TLS, server names."""

import pytest

from cplane.domain.policy import InvalidPolicy
from tests.support.builders import ccnp, cnp, policy, ports

HTTP = {"http": [{"method": "GET"}]}
LISTENER = {"envoyConfig": {"name": "e"}, "name": "l"}
TLS = {"secret": {"name": "s", "namespace": "n"}}


def element(*texts, **more):
    """`toPorts` of one element."""
    return [{**(ports(*texts)[0] if texts else {}), **more}]


def egress(*texts, **more):
    return cnp(egress=[{"toPorts": element(*texts, **more)}])


def ingress(*texts, **more):
    return cnp(ingress=[{"toPorts": element(*texts, **more)}])


def http(**rule):
    return egress("80/TCP", rules={"http": [rule]})


def kafka(**rule):
    return egress("9092/TCP", rules={"kafka": [rule]})


def dns(**rule):
    return egress("53", rules={"dns": [rule]})


def host(document):
    document["spec"]["nodeSelector"] = document["spec"].pop("endpointSelector")
    return document


EGRESS, INGRESS = "spec.egress[0].toPorts[0]", "spec.ingress[0].toPorts[0]"
RULES = f"{EGRESS}.rules"

REFUSED = [
    # which rules, and over which ports
    (ingress("53", rules={"dns": [{}]}), f"{INGRESS}.rules", "write them under egress"),
    (
        egress("80/TCP", rules={**HTTP, "kafka": [{}]}),
        RULES,
        "http and kafka in one element: write an element for each",
    ),
    (egress("80/TCP", rules={"http": [], "dns": []}), RULES, "http and dns in one element"),
    (egress("80/TCP", rules={"l7proto": "x", **HTTP}), RULES, "http and l7proto in one element"),
    (egress("80/TCP", rules={"l7": [{"a": "b"}]}), f"{RULES}.l7", "l7 needs l7proto"),
    (egress("80/TCP", rules={"l7proto": "x", "l7": [{"": "b"}]}), f"{RULES}.l7[0]", "a name is empty"),
    (egress("80/TCP", rules={"l7proto": "x", "l7": [{"a": 1}]}), f"{RULES}.l7[0].a", "expected a string"),
    (egress("80/TCP", rules={"l7proto": 1}), f"{RULES}.l7proto", "expected a string"),
    (egress("80/TCP", rules={"htp": []}), f"{RULES}.htp", "did you mean 'http'?"),
    (egress("80/TCP", rules=[]), RULES, "expected an object, got list"),
    (egress("80/TCP", rules={"http": {}}), f"{RULES}.http", "expected a list"),
    (egress("80", rules=HTTP), f"{EGRESS}.ports[0]", "http rules are about TCP, not ANY: write protocol TCP"),
    (egress("80/UDP", rules=HTTP), f"{EGRESS}.ports[0]", "http rules are about TCP, not UDP"),
    (egress("80/TCP", "9/SCTP", rules={"kafka": [{}]}), f"{EGRESS}.ports[1]", "kafka rules are about TCP, not SCTP"),
    (egress("http", rules=HTTP), f"{EGRESS}.ports[0]", "http rules are about TCP, not ANY"),
    (egress("80/UDP", rules={"l7proto": "x"}), f"{EGRESS}.ports[0]", "x rules are about TCP, not UDP"),
    (egress("0/TCP", rules=HTTP), f"{EGRESS}.ports[0]", "http rules need a port that is not 0"),
    (egress("0-99/TCP", rules=HTTP), f"{EGRESS}.ports[0]", "http rules need a port that is not 0"),
    (egress("0", rules={"dns": [{}]}), f"{EGRESS}.ports[0]", "dns rules need a port that is not 0"),
    (egress(rules={"dns": [{}]}), EGRESS, "DNS rules need ports: write port 53, protocol ANY"),
    (egress("53-54", rules={"dns": [{}]}), f"{EGRESS}.ports[0]", "DNS rules cannot have a range of ports"),
    # HTTP
    (http(method="("), f"{RULES}.http[0].method", "'(' is not a regular expression (RE2): missing ): ("),
    (http(path="/a{1001}"), f"{RULES}.http[0].path", "is not a regular expression (RE2)"),
    (http(path="(?=a)"), f"{RULES}.http[0].path", "is not a regular expression (RE2)"),
    (http(path=r"(a)\1"), f"{RULES}.http[0].path", "is not a regular expression (RE2)"),
    (http(path="\ud800"), f"{RULES}.http[0].path", "half of a surrogate pair"),
    (http(path=7), f"{RULES}.http[0].path", "expected a string"),
    (http(paths="/"), f"{RULES}.http[0].paths", "did you mean 'path'?"),
    (http(headers=["a", 1]), f"{RULES}.http[0].headers[1]", "expected a string"),
    (http(headerMatches=[{}]), f"{RULES}.http[0].headerMatches[0]", "name is missing: write the header's name"),
    (http(headerMatches=[{"name": ""}]), f"{RULES}.http[0].headerMatches[0]", "name is missing"),
    (
        http(headerMatches=[{"name": "a", "mismatch": "DROP"}]),
        f"{RULES}.http[0].headerMatches[0].mismatch",
        "unknown action 'DROP'",
    ),
    (
        http(headerMatches=[{"name": "a", "mismatch": "log"}]),
        f"{RULES}.http[0].headerMatches[0].mismatch",
        "did you mean 'LOG'?",
    ),
    (
        http(headerMatches=[{"name": "a", "secret": {"namespace": "n"}}]),
        f"{RULES}.http[0].headerMatches[0].secret",
        "name is missing: write the secret's name",
    ),
    # Kafka
    (kafka(role="produce", apiKey="fetch"), f"{RULES}.kafka[0]", "both role and apiKey"),
    (kafka(role="producer"), f"{RULES}.kafka[0].role", "unknown role 'producer'; did you mean 'produce'?"),
    (kafka(apiKey="fetsh"), f"{RULES}.kafka[0].apiKey", "unknown API key 'fetsh'; did you mean 'fetch'?"),
    (kafka(apiVersion="-1"), f"{RULES}.kafka[0].apiVersion", "write a number from 0 to 32767"),
    (kafka(apiVersion="32768"), f"{RULES}.kafka[0].apiVersion", "'32768' is not a version"),
    (kafka(apiVersion="9" * 5000), f"{RULES}.kafka[0].apiVersion", "is not a version"),
    (kafka(apiVersion="²"), f"{RULES}.kafka[0].apiVersion", "is not a version"),
    (kafka(apiVersion=1), f"{RULES}.kafka[0].apiVersion", "expected a string"),
    (kafka(topic="a b"), f"{RULES}.kafka[0].topic", "'a b' is not a topic"),
    (kafka(topic="a" * 256), f"{RULES}.kafka[0].topic", "at most 255 of them"),
    (kafka(topics=["a"]), f"{RULES}.kafka[0].topics", "did you mean 'topic'?"),
    # DNS
    (dns(matchName="*"), f"{RULES}.dns[0].matchName", "for a pattern write matchPattern"),
    (dns(matchName="a..b"), f"{RULES}.dns[0].matchName", "single dots between them"),
    (dns(matchPattern="a?"), f"{RULES}.dns[0].matchPattern", "a pattern has letters, digits"),
    (dns(matchPattern="a" * 256), f"{RULES}.dns[0].matchPattern", "256 characters, at most 255"),
    (dns(name="a"), f"{RULES}.dns[0].name", "unknown field"),
    # server names and TLS
    (egress("443/TCP", serverNames=[]), f"{EGRESS}.serverNames", "an empty list of server names"),
    (egress("443/TCP", serverNames=[""]), f"{EGRESS}.serverNames[0]", "'' is not a server name"),
    (egress("443/TCP", serverNames=["a.*.b"]), f"{EGRESS}.serverNames[0]", "'*.' for one label or '**.' for several"),
    (egress("443/TCP", serverNames=["***.b"]), f"{EGRESS}.serverNames[0]", "is not a server name"),
    (egress("443/TCP", serverNames=["a" * 256]), f"{EGRESS}.serverNames[0]", "at most 255 characters"),
    (egress("443/TCP", serverNames="a"), f"{EGRESS}.serverNames", "expected a list"),
    (egress("443/TCP", serverNames=["a"], rules=HTTP), f"{EGRESS}.serverNames", "need terminatingTLS"),
    (egress("443/TCP", terminatingTLS={}), f"{EGRESS}.terminatingTLS", "secret is missing"),
    (egress("443/TCP", originatingTLS={"secret": {}}), f"{EGRESS}.originatingTLS.secret", "name is missing"),
    (egress("443/TCP", originatingTLS={**TLS, "cert": "x"}), f"{EGRESS}.originatingTLS.cert", "unknown field"),
    # listeners
    (ingress("80/TCP", listener=LISTENER), f"{INGRESS}.listener", "a listener can stand under egress only"),
    (egress("80/TCP", listener=LISTENER, rules=HTTP), EGRESS, "both listener and rules"),
    (egress("80/TCP", listener={"name": "l"}), f"{EGRESS}.listener", "envoyConfig is missing"),
    (egress("80/TCP", listener={"envoyConfig": {"name": "e"}}), f"{EGRESS}.listener", "name is missing"),
    (egress("80/TCP", listener={"envoyConfig": {}, "name": "l"}), f"{EGRESS}.listener.envoyConfig", "name is missing"),
    (
        egress("80/TCP", listener={"envoyConfig": {"name": "e", "kind": "EnvoyConfig"}, "name": "l"}),
        f"{EGRESS}.listener.envoyConfig.kind",
        "unknown kind 'EnvoyConfig'; did you mean 'CiliumEnvoyConfig'?",
    ),
    (egress("80/TCP", listener={**LISTENER, "priority": 0}), f"{EGRESS}.listener.priority", "an integer from 1 to 100"),
    (egress("80/TCP", listener={**LISTENER, "priority": 101}), f"{EGRESS}.listener.priority", "from 1 to 100"),
    # host policies
    (
        host(ccnp(ingress=[{"toPorts": element("80/TCP", rules=HTTP)}])),
        "spec.ingress[0].toPorts",
        "a host policy cannot have http rules: it may have DNS rules, under egress",
    ),
    (
        host(ccnp(ingress=[{"toPorts": element("80/TCP", rules={"l7proto": "x"})}])),
        "spec.ingress[0].toPorts",
        "a host policy cannot have x rules",
    ),
    (
        host(ccnp(egress=[{"toPorts": element("80/TCP", rules={"kafka": [{}]})}])),
        "spec.egress[0].toPorts",
        "a host policy cannot have kafka rules",
    ),
]


@pytest.mark.parametrize(("document", "path", "message"), REFUSED)
def test_what_no_proxy_could_do_is_refused_with_the_path_and_what_to_do(document, path, message):
    with pytest.raises(InvalidPolicy) as refused:
        policy(document)
    assert [e for e in refused.value.errors if e.path == path and message in e.message], str(refused.value)


ACCEPTED = [
    egress("53", rules={"dns": [{"matchPattern": "*"}]}),
    egress("53/UDP", "53/TCP", rules={"dns": [{"matchName": "a.example", "matchPattern": "b.*"}]}),
    egress("http/TCP", rules=HTTP),
    egress("80-89/TCP", rules=HTTP),
    egress(rules=HTTP),
    egress("443/TCP", serverNames=["a.example", "*.b", "**.c", "_d"]),
    egress("443/TCP", serverNames=["a"], rules=HTTP, terminatingTLS=TLS),
    egress("0", serverNames=["a"]),
    egress("80/TCP", listener={"envoyConfig": {"kind": "CiliumClusterwideEnvoyConfig", "name": "e"}, "name": "l"}),
    egress("80/TCP", listener={**LISTENER, "priority": 100}),
    egress("80/TCP", rules={"l7proto": "r2d2"}),
    egress("80/TCP", rules={"l7proto": "r2d2", "l7": [{"cmd": "READ"}, {}]}),
    ingress("80/TCP", rules={"http": [{}]}),
    http(host="(", headers=["X-A", "X-B: b"]),
    kafka(role="PRODUCE", apiVersion="007", topic="a-b.c_1", clientID="any one"),
    kafka(apiKey="CreateTopics"),
    host(ccnp(egress=[{"toPorts": element("53", rules={"dns": [{"matchPattern": "*"}]})}])),
    host(ccnp(ingress=[{"toPorts": element("22/TCP")}])),
]


@pytest.mark.parametrize("document", ACCEPTED)
def test_what_a_proxy_could_do_is_accepted(document):
    assert policy(document).rules


@pytest.mark.parametrize("text", ["a" * 200 + "!", "a-" * 120 + "!", "a." * 120 + "!"])
def test_a_name_that_nearly_is_one_is_refused_at_once(text):
    for document in (dns(matchName=text), egress("443/TCP", serverNames=[text])):
        with pytest.raises(InvalidPolicy):
            policy(document)
