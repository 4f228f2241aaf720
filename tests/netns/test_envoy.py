"""HTTP through a real Envoy: what it lets pass is what the rules say, and it shows little of itself."""

import json
import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cplane.domain.access import Phase
from cplane.domain.policy import regex
from cplane.domain.policy.http import MISMATCHES, HeaderMatch, HttpRequest, HttpRule, Secret
from cplane.domain.policy.redirect import L7Rules
from cplane.domain.policy.redirection import RedirectRule
from cplane.domain.verdict import Direction, Verdict
from tests.support.proxied import CLIENT, CLIENT6, REF, SERVER, SERVER6, Site, http, redirection, site
from tests.support.raw_http import Connection

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

PROXY = 10_000
URL, URL6 = f"http://{SERVER}", f"http://[{SERVER6}]"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(f"cpte{os.getpid():x}", tmp_path_factory.mktemp("envoy")) as made:
        made.origin(80)
        made.redirect(80, PROXY)
        yield made


def allow(proxied: Site, *rules: HttpRule) -> None:
    proxied.apply({PROXY: redirection(http(*rules))})
    assert proxied.envoy.problems() == {}


@pytest.mark.parametrize(("url", "client"), [(URL, CLIENT), (URL6, CLIENT6)])
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_what_a_rule_allows_passes_and_the_rest_is_refused(proxied, url, client, version):
    allow(proxied, HttpRule("GET", "/public/.*"))
    code, _, body = proxied.curl(version, f"{url}/public/a?b=c").partition("\n")
    assert (code, json.loads(body)["peer"]) == ("200", client)
    assert proxied.curl(version, f"{url}/private") == "403\nAccess denied\r\n"
    assert proxied.curl(version, "-X", "POST", f"{url}/public/a") == "403\nAccess denied\r\n"


def test_http2_without_tls_is_judged_too(proxied):
    allow(proxied, HttpRule("GET", "/public/.*"))
    assert proxied.curl("--http2-prior-knowledge", f"{URL}/private") == "403\nAccess denied\r\n"
    assert proxied.curl("--http2", f"{URL}/private") == "403\nAccess denied\r\n"
    assert proxied.curl("--http2", f"{URL}/public/").startswith("200\n")


def test_the_header_of_the_mission_must_be_there(proxied):
    allow(proxied, HttpRule(headers=("X-Token: [0-9]+",)))
    assert proxied.curl("-H", "X-Token: 42", URL).startswith("200")
    assert proxied.curl("-H", "X-Token: 42a", URL).startswith("403")
    assert proxied.curl(URL).startswith("403")


@pytest.mark.parametrize("tokens", [("a", "1"), ("1", "a"), ("1", "2")])
def test_a_header_that_is_there_twice_is_judged_as_one(proxied, tokens):
    """A server may read either line, so one that the rule likes does not vouch for the other."""
    allow(proxied, HttpRule(headers=("X-Token: [0-9]+",)))
    twice = [part for one in tokens for part in ("-H", f"X-Token: {one}")]
    assert proxied.curl(*twice, URL).startswith("403")
    allow(proxied, HttpRule(headers=("X-Token: [0-9a,]+",)))
    assert proxied.curl(*twice, URL).startswith("200")


def test_a_change_meets_an_open_connection(proxied):
    allow(proxied, HttpRule("GET", "/a"))
    connection = Connection(proxied.client, SERVER)
    assert connection.ask("GET", "/a").status == 200
    allow(proxied, HttpRule("GET", "/b"))
    assert connection.ask("GET", "/a").status == 403
    assert connection.ask("GET", "/b").status == 200
    connection.close()


def test_rules_without_requests_let_everything_pass(proxied):
    for rule in (RedirectRule(REF, "", None), http()):
        proxied.apply({PROXY: redirection(rule)})
        assert proxied.curl("-X", "DELETE", f"{URL}/x").startswith("200")
    proxied.apply({PROXY: redirection()})
    assert proxied.curl(URL).startswith("403")


def test_the_server_sees_the_request_as_it_was_sent(proxied):
    allow(proxied, HttpRule())
    sent = ["X-Forwarded-Proto: https", "x-MIXED-Case: Kept", "X-Request-Id: mine", "X-Forwarded-For: 192.0.2.1"]
    body = proxied.curl(*(part for one in sent for part in ("-H", one)), f"{URL}/p").partition("\n")[2]
    headers = [": ".join(one) for one in json.loads(body)["headers"]]
    assert sorted(headers) == sorted([f"Host: {SERVER}", "User-Agent: curl/7.88.1", "Accept: */*", *sent])


def test_the_client_sees_the_answer_as_it_was_sent(proxied):
    allow(proxied, HttpRule())
    head = proxied.curl("-i", URL).partition("\r\n\r\n")[0].split("\r\n")
    assert head[0].endswith("HTTP/1.1 200 Fine")
    assert {one.partition(":")[0] for one in head[1:]} <= {"Content-Type", "X-Origin-Case", "Content-Length", "date"}


def test_a_client_cannot_pretend_what_the_proxy_notes(proxied):
    allow(proxied, HttpRule(headers=("X-Forwarded-Proto: https",)))
    assert proxied.curl(URL).startswith("403")
    assert proxied.curl("-H", "X-Cplane-Forwarded-Proto: https", URL).startswith("403")
    assert proxied.curl("-H", "X-Forwarded-Proto: https", URL).startswith("200")


@pytest.mark.parametrize(
    ("mismatch", "sent", "seen"),
    [
        ("LOG", ["other"], ["other"]),
        ("LOG", [], []),
        ("ADD", ["other"], ["other", "50%"]),
        ("ADD", [], ["50%"]),
        ("ADD", ["50%"], ["50%"]),
        ("DELETE", ["other"], []),
        ("DELETE", ["50%"], ["50%"]),
        ("DELETE", ["50%", "other"], []),
        ("REPLACE", ["other"], ["50%"]),
        ("REPLACE", [], ["50%"]),
        ("REPLACE", ["50%"], ["50%"]),
    ],
)
def test_a_header_that_differs_is_mended(proxied, mismatch, sent, seen):
    allow(proxied, HttpRule(header_matches=(HeaderMatch("X-Half", "50%", None, mismatch),)))
    code, _, body = proxied.curl(*(part for one in sent for part in ("-H", f"X-Half: {one}")), URL).partition("\n")
    assert code == "200"
    assert [value for name, value in json.loads(body)["headers"] if name.lower() == "x-half"] == seen


def test_the_value_of_a_header_may_be_a_secret_that_changes(proxied):
    folder = proxied.secrets / "shop" / "token"
    folder.mkdir(parents=True)
    (folder / "value").write_bytes(b"first")
    allow(proxied, HttpRule(header_matches=(HeaderMatch("X-Key", "", Secret("shop", "token")),)))
    assert proxied.curl("-H", "X-Key: first", URL).startswith("200")
    assert proxied.curl("-H", "X-Key: second", URL).startswith("403")
    (folder / "value").write_bytes(b"second")
    proxied.until(lambda: proxied.curl("-H", "X-Key: second", URL).startswith("200"))
    assert proxied.curl("-H", "X-Key: first", URL).startswith("403")
    (folder / "value").unlink()
    proxied.until(lambda: proxied.curl("-H", "X-Key: second", URL).startswith("403"))


def test_a_websocket_passes_where_its_request_does(proxied):
    allow(proxied, HttpRule("GET", "/chat"))
    wanted = (("Host", "a"), ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"))
    key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    connection = Connection(proxied.client, SERVER)
    answer = connection.ask("GET", "/chat", (*wanted, key))
    assert (answer.status, answer.headers["sec-websocket-accept"]) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    connection.send(b"\x81\x02hi")
    assert connection.socket.recv(16) == b"\x81\x02hi"
    connection.close()
    refused = Connection(proxied.client, SERVER)
    assert refused.ask("GET", "/other", (*wanted, key)).status == 403
    refused.close()


def test_every_request_and_answer_is_told(proxied):
    allow(proxied, HttpRule("GET", "/told.*"))
    began = time.time_ns()
    assert proxied.curl(f"{URL}/told?q=1", "-H", "X-Token: 7").startswith("200")
    assert proxied.curl("-X", "PUT", "--http2-prior-knowledge", f"{URL}/hidden", "-H", "Cookie: secret").startswith(
        "403"
    )
    proxied.until(lambda: len(proxied.since(began)) == 4)
    asked, answered, refused, said = proxied.since(began)
    assert [one.phase for one in proxied.since(began)] == [Phase.REQUEST, Phase.RESPONSE] * 2
    assert (asked.verdict, asked.rules, asked.proxy_port) == (Verdict.FORWARDED, (REF,), PROXY)
    assert (asked.payload.method, asked.payload.url) == ("GET", f"{URL}/told?q=1")
    assert ("X-Token", "7") in asked.payload.headers
    assert (asked.source.ip, asked.destination) == (CLIENT, (SERVER, 80))
    assert (answered.payload.code, answered.source, answered.destination) == (200, asked.destination, asked.source)
    assert answered.latency_ns > 0
    assert answered.time_ns >= asked.time_ns
    assert (refused.verdict, refused.rules, refused.payload.method) == (Verdict.DROPPED, (), "PUT")
    assert (refused.payload.protocol, refused.direction) == ("HTTP/2", Direction.EGRESS)
    assert dict(refused.payload.headers)["Cookie"] == "HUBBLE_REDACTED"
    assert (said.verdict, said.payload.code) == (Verdict.FORWARDED, 403)


# ---- the same verdict as without a proxy

METHODS = st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS"])
PIECES = st.sampled_from(
    ["a", "b", "/", "1", "-", r"\.", "?", ".*", ".", "[ab]+", "[0-9]*", "(a|b/c)", "(?:x)?", "a{2}", "%41"]
)
EXPRESSIONS = st.lists(PIECES, max_size=5).map("".join).filter(lambda one: not regex.problem(one))
TEXTS = st.text("ab1-.?=c", max_size=5)
PATHS = st.lists(TEXTS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
NAMES = st.sampled_from(["X-A", "x-b", "X-C"])
VALUES = st.text("ab1. ", min_size=1, max_size=3).map(str.strip)
HEADERS = st.one_of(NAMES, st.builds("{}: {}".format, NAMES, EXPRESSIONS), st.builds("{} {}".format, NAMES, VALUES))
MATCHES = st.builds(HeaderMatch, NAMES, VALUES, st.none(), st.sampled_from(["", "", *MISMATCHES]))
RULES = st.builds(
    HttpRule,
    method=st.one_of(st.just(""), METHODS, st.sampled_from(["GET|PUT", "P.*"])),
    path=st.one_of(st.just(""), EXPRESSIONS.map(lambda one: "/" + one), EXPRESSIONS),
    host=st.one_of(st.just(""), st.sampled_from(["a", r"a\.b", ".*b", "("])),
    headers=st.lists(HEADERS, max_size=2).map(tuple),
    header_matches=st.lists(MATCHES, max_size=2).map(tuple),
)
REQUESTS = st.builds(
    HttpRequest,
    method=METHODS,
    path=PATHS,
    host=st.sampled_from(["a", "a.b", "axb", "b"]),
    headers=st.dictionaries(NAMES.map(str.lower), VALUES, max_size=3),
)


@given(rules=st.lists(RULES, min_size=1, max_size=3), requests=st.lists(REQUESTS, min_size=1, max_size=6))
def test_envoy_decides_as_the_rules_do(proxied, rules, requests):
    for one in requests:
        assume(not any(part in {"", ".", ".."} for part in one.path.partition("?")[0].split("/")[1:-1]))
        assume(one.path.partition("?")[0].split("/")[-1] not in {".", ".."})
    allowed = L7Rules("http", tuple(rules))
    allow(proxied, *rules)
    connection = Connection(proxied.client, SERVER)
    try:
        for one in requests:
            headers = (("Host", one.host), *((name, value) for name, value in one.headers.items()))
            answer = connection.ask(one.method, one.path, headers)
            assert answer is not None
            assert answer.status == (200 if allowed.allow(one) else 403), one
    finally:
        connection.close()
