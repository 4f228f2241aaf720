"""Rules for requests that were seen: they let these pass, and as little else as can be written down."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.policy.kafka import API_KEYS, KafkaRequest
from cplane.timetravel.asked import AskedHttp, request_of
from cplane.timetravel.requested import RULES_MAX, proposed
from tests.support.builders import cnp, policy, ports

UUIDS = ["0b54f0c5-7a0b-4d3c-8f27-6a2d7e3c1f00", "9c1c6a1e-2f5d-4b8e-9d0a-000000000001"]


def get(path, method="GET", host="api"):
    return AskedHttp(method, path, host, ())


def kafka(key, *topics):
    return KafkaRequest(API_KEYS[key], 3, topics=topics)


def paths(*requests):
    return [(one["method"], one.get("path")) for one in proposed(requests).rules["http"]]


def allowed(found, requests):
    """The requests that rules let pass, read as a policy's are."""
    (rule,) = policy(cnp(egress=[{"toPorts": [{**ports("80/TCP")[0], "rules": found.rules}]}])).rules
    return [one for one in requests if rule.terms[0].redirect.rules.allow(request_of(one))]


def test_methods_and_paths_are_what_was_seen():
    assert paths(get("/a"), get("/a", "POST"), get("/b.html"), get("/a", host="other")) == [
        ("GET", "/a"),
        ("GET", r"/b\.html"),
        ("POST", "/a"),
    ]


def test_an_identifier_that_was_always_the_same_stays_what_it_is():
    assert paths(get("/users/7"), get("/users/7/posts/1"), get("/users/7/posts/2")) == [
        ("GET", "/users/7"),
        ("GET", "/users/7/posts/[0-9]+"),
    ]


def test_where_identifiers_differ_any_of_their_kind_may_stand_and_a_note_says_so():
    found = proposed([get("/users/7"), get("/users/8"), get("/users/me")])
    assert [one["path"] for one in found.rules["http"]] == ["/users/[0-9]+", "/users/me"]
    assert found.notes == ("HTTP: GET /users/[0-9]+ stands for 2 seen: /users/7, /users/8",)
    assert allowed(found, [get("/users/9"), get("/users/you"), get("/users/9/x"), get("/users/")]) == [get("/users/9")]


@pytest.mark.parametrize(
    ("seen", "path"),
    [
        (UUIDS, "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        ([one.upper() for one in UUIDS], "[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}"),
        (["507f1f77bcf86cd799439011", "507f1f77bcf86cd799439012"], "[0-9a-f]{24}"),
        (["d41d8cd98f00b204e9800998ecf8427e", "00000000000000000000000000000000a"[1:]], "[0-9a-f]{32}"),
    ],
)
def test_kinds_of_identifiers(seen, path):
    assert paths(*(get(f"/x/{one}") for one in seen)) == [("GET", f"/x/{path}")]


@pytest.mark.parametrize("seen", [["alice", "bob"], ["deadbeef", "facefeed"], ["v1", "v2"], ["7a", "7b"], ["", "x"]])
def test_words_are_none(seen):
    assert len(paths(*(get(f"/x/{one}") for one in seen))) == 2


def test_a_query_may_be_any_where_one_was_seen():
    assert paths(get("/a?x=1"), get("/a?x=2"), get("/b"), get("/b?"), get("/c")) == [
        ("GET", r"/a\?.*"),
        ("GET", r"/b(\?.*)?"),
        ("GET", "/c"),
    ]
    assert proposed([get("/a?x=1")]).notes == (r"HTTP: \?.* is any query, as one was seen",)


def test_too_many_words_in_one_place_become_any_and_what_else_was_seen_stays():
    many = [get(f"/files/{chr(97 + n // 26)}{chr(97 + n % 26)}/raw") for n in range(RULES_MAX + 1)]
    found = proposed([*many, get("/health")])
    assert found.rules["http"] == [
        {"method": "GET", "path": "/files/[^/?]+/raw"},
        {"method": "GET", "path": "/health"},
    ]
    assert found.notes == (
        f"HTTP: GET /files/[^/?]+/raw stands for {len(many)} seen: /files/aa/raw, /files/ab/raw, /files/ac/raw, …",
    )


def test_what_cannot_be_folded_is_any_path_of_the_method():
    many = [get("/" + "/".join("abcdef"[n // 6**i % 6] * (n % 7 + 1) for i in range(n % 5 + 1))) for n in range(600)]
    found = proposed([*many, get("/a", "POST")])
    assert allowed(found, many) == many
    assert len(found.rules["http"]) <= RULES_MAX + 1
    long = proposed([get("/" + "x" * 5000), get("/a", "POST")])
    assert long.rules["http"] == [{"method": "GET"}, {"method": "POST", "path": "/a"}]
    assert "any path" in long.notes[0]


def test_names_are_what_was_asked_for():
    found = proposed(["api.example.com.", "db.shop.svc.cluster.local."])
    assert found.rules == {"dns": [{"matchName": "api.example.com"}, {"matchName": "db.shop.svc.cluster.local"}]}
    assert found.notes == ()
    odd = proposed(["a b.", ".", "x."])
    assert odd.rules == {"dns": [{"matchName": "x"}]}
    assert odd.notes == ("DNS: left out, as they cannot be written down: 2 names",)
    assert proposed(["."]).rules == {"dns": [{"matchPattern": "*"}]}


def test_too_many_names_become_patterns_and_then_any():
    many = [f"h{n}.example.com." for n in range(RULES_MAX)]
    found = proposed([*many, "other.org."])
    assert found.rules["dns"] == [{"matchName": "other.org"}, {"matchPattern": "*.example.com"}]
    assert found.notes[0].startswith("DNS: *.example.com stands for 40 seen: ")
    assert proposed([f"h{n}.d{n}.org." for n in range(RULES_MAX + 1)]).rules["dns"] == [{"matchPattern": "*"}]


def test_topics_have_roles_and_other_requests_their_keys():
    found = proposed(
        [
            kafka("apiversions"),
            kafka("metadata"),
            kafka("metadata", "orders"),
            kafka("produce", "orders"),
            kafka("initproducerid"),
            kafka("fetch", "events"),
            kafka("fetch"),
            kafka("joingroup"),
            kafka("createtopics", "new"),
            kafka("listgroups"),
        ]
    )
    assert found.rules["kafka"] == [
        {"role": "consume", "topic": "events"},
        {"apiKey": "createtopics", "topic": "new"},
        {"role": "produce", "topic": "orders"},
        {"apiKey": "listgroups"},
    ]
    assert found.notes == ("Kafka: a role stands for all requests that a producer or a consumer makes",)
    assert allowed(found, [kafka("produce", "events"), kafka("fetch", "orders"), kafka("deletetopics", "new")]) == []


def test_requests_that_name_no_topic_have_no_role():
    assert proposed([kafka("apiversions"), kafka("metadata")]).rules["kafka"] == [
        {"apiKey": "metadata"},
        {"apiKey": "apiversions"},
    ]


def test_too_many_topics_become_any():
    found = proposed([kafka("produce", f"t{n}") for n in range(RULES_MAX + 1)])
    assert found.rules["kafka"] == [{"role": "produce"}]
    assert found.notes == (f"Kafka: any topic, as {RULES_MAX + 1} are too many",)


def test_several_protocols_at_a_port_cannot_be_written():
    assert proposed([get("/"), "a."]) is None


segments = st.one_of(
    st.sampled_from(["users", "a.b", "x+y", "(", "$", "{1}", "%2e", "ü", "", *UUIDS]),
    st.integers(0, 10**6).map(str),
    st.binary(min_size=8, max_size=8).map(bytes.hex),
    st.text(st.characters(codec="utf-8", exclude_characters="/?#"), max_size=5),
)
asked_http = st.builds(
    lambda method, parts, query: get("/" + "/".join(parts) + query, method),
    st.sampled_from(["GET", "POST", "M-SEARCH"]),
    st.lists(segments, max_size=4),
    st.sampled_from(["", "", "?", "?a=1", "?b=[x]&c"]),
)
asked_kafka = st.builds(
    lambda key, topics: KafkaRequest(key, 1, topics=tuple(topics)),
    st.sampled_from(sorted(API_KEYS.values())),
    st.lists(st.sampled_from([f"t{n}" for n in range(60)]), max_size=2),
)
asked_dns = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=4).map(lambda labels: ".".join(labels) + ".")


@given(st.one_of(*(st.lists(one, min_size=1, max_size=120) for one in (asked_http, asked_kafka, asked_dns))))
def test_what_was_seen_may_pass_the_rules_are_few_and_do_not_depend_on_the_order(requests):
    found = proposed(requests)
    assert allowed(found, requests) == requests
    assert sum(map(len, found.rules.values())) <= RULES_MAX + 3
    assert json.dumps(proposed(requests[::-1]), sort_keys=True) == json.dumps(found, sort_keys=True)


@given(st.lists(asked_http, min_size=1, max_size=30), asked_http)
def test_without_a_note_no_other_path_may_pass(requests, other):
    found = proposed(requests)
    if not found.notes:
        seen = {(one.method, one.path) for one in requests}
        assert bool(allowed(found, [other])) == ((other.method, other.path) in seen)
