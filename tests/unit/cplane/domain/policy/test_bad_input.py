"""Whatever comes in is read or refused: no other error, no hang, no endless message, and always the same answer."""

import copy
import json
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.domain.policy import CidrGroup, InvalidPolicy, Policy, parse
from tests.support import random_policies
from tests.support.builders import ccnp, cnp, group, knp, ports, selector
from tests.support.effort import examples, sample

HUGE = "x" * 100_000
TLS = {"secret": {"name": "s", "namespace": "n"}, "certificate": "c"}
RICH = [
    cnp(
        ingress=[
            {"fromEndpoints": [{**selector("k8s:app=web"), "matchExpressions": [expression]}]}
            for expression in ({"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "Exists"})
        ],
        egress=[
            {"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidrGroupRef": "g"}]},
            {"toServices": [{"k8sService": {"serviceName": "a", "namespace": "n"}}]},
            {"toFQDNs": [{"matchName": "a.example"}, {"matchPattern": "*.example"}], "toPorts": ports("443/TCP")},
            {"toGroups": [{"aws": {"region": "r", "labels": {"a": "b"}, "securityGroupsIds": ["s"]}}]},
            {"toPorts": [{**ports("53")[0], "rules": {"dns": [{"matchName": "a"}, {"matchPattern": "*"}]}}]},
            {
                "toPorts": [
                    {
                        **ports("80/TCP")[0],
                        "listener": {"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "e"}, "name": "l"},
                    }
                ]
            },
            {"icmps": [{"fields": [{"family": "IPv4", "type": "Echo"}]}]},
        ],
        labels=[{"key": "a", "source": "s", "value": "v"}, "k8s:a=b"],
        description="d",
        log={"value": "v"},
        enableDefaultDeny={"ingress": True},
    ),
    ccnp(
        ingress=[
            {
                "fromEntities": ["world"],
                "authentication": {"mode": "required"},
                "toPorts": [
                    {
                        **ports("80/TCP")[0],
                        "rules": {
                            "http": [
                                {
                                    "method": "GET",
                                    "path": "/",
                                    "host": "h",
                                    "headers": ["a"],
                                    "headerMatches": [
                                        {"name": "a", "value": "b", "mismatch": "LOG", "secret": {"name": "s"}}
                                    ],
                                }
                            ]
                        },
                    },
                    {
                        **ports("9092/TCP")[0],
                        "rules": {"kafka": [{"role": "produce", "topic": "t", "clientID": "c", "apiVersion": "1"}]},
                    },
                    {**ports("81/TCP")[0], "rules": {"l7proto": "p", "l7": [{"a": "b"}]}},
                    {**ports("443/TCP")[0], "serverNames": ["a"], "terminatingTLS": TLS, "originatingTLS": TLS},
                ],
            }
        ]
    ),
    knp(
        ingress=[
            {
                "from": [
                    {"podSelector": selector("app=web"), "namespaceSelector": selector("team=a")},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                ],
                "ports": [{"port": "http", "protocol": "TCP"}, {"port": 80, "endPort": 81}],
            }
        ],
        policyTypes=["Ingress"],
    ),
    group("g", "10.0.0.0/8", labels={"a": "b"}),
]


def outcome(document):
    """What parse makes of the document: a result, or the errors."""
    try:
        found = parse(document, cluster="c1")
    except InvalidPolicy as refused:
        errors, text = refused.errors, str(refused)
    else:
        assert isinstance(found, Policy | CidrGroup)
        return found
    assert errors
    assert all(error.path and error.message and str(error) in text for error in errors)
    return errors


def places(value, path=()):
    """The path of everything in a document."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in inner:
        yield from places(one, (*path, step))


def at(document, path):
    for step in path:
        document = document[step]
    return document


def replaced(document, path, value):
    if not path:
        return value
    document = copy.deepcopy(document)
    at(document, path[:-1])[path[-1]] = value
    return document


def renamed(document, path, key):
    document = copy.deepcopy(document)
    parent = at(document, path[:-1])
    parent[key] = parent.pop(path[-1])
    return document


JUNK = (
    None,
    True,
    0,
    -1,
    1 << 70_000,
    1.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\0",
    "\ud800",
    "é",
    [],
    [[]],
    {},
    {"": 0},
    {1: 2},
    [None],
    (),
)


@pytest.mark.parametrize("document", RICH)
def test_the_documents_of_these_tests_are_accepted(document):
    assert isinstance(outcome(document), Policy | CidrGroup)


@pytest.mark.parametrize("document", RICH)
def test_no_junk_in_any_place_is_worse_than_refused(document):
    for path in sample(places(document)):
        for junk in JUNK:
            outcome(replaced(document, path, junk))


@pytest.mark.parametrize("document", RICH)
def test_no_text_in_any_place_makes_a_long_message(document):
    for path in sample(places(document)):
        long = [HUGE, HUGE + "!", [HUGE] * 3, {HUGE: HUGE}, int("9" * 4000)]
        for document_ in (replaced(document, path, one) for one in long):
            found = outcome(document_)
            assert isinstance(found, Policy | CidrGroup) or all(len(str(error)) < 2000 for error in found)
        if path and isinstance(path[-1], str):
            found = outcome(renamed(document, path, HUGE))
            assert isinstance(found, Policy | CidrGroup) or all(len(str(error)) < 2000 for error in found)


KEYS = sorted({step for document in RICH for path in places(document) for step in path if isinstance(step, str)})
TEXTS = sorted({value for one in RICH for path in places(one) if isinstance(value := at(one, path), str)})
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=4),
    max_leaves=25,
)


@given(json_values)
@settings(max_examples=examples(300), deadline=None)
def test_any_json_is_read_or_refused_and_again_in_the_same_way(document):
    assert repr(outcome(document)) == repr(outcome(copy.deepcopy(document)))


@given(st.sampled_from(RICH), st.integers(0, 10_000), json_values, st.sampled_from(KEYS))
@settings(max_examples=examples(400), deadline=None)
def test_a_document_with_anything_in_one_place_is_read_or_refused(document, place, value, key):
    paths = [path for path in places(document) if path]
    path = paths[place % len(paths)]
    outcome(replaced(document, path, value))
    if isinstance(path[-1], str):
        outcome(renamed(document, path, key))


@given(st.randoms(use_true_random=False))
@settings(max_examples=examples(150), deadline=None)
def test_a_good_policy_is_accepted_in_the_same_way_each_time(chance):
    document = random_policies.document(chance)
    assert outcome(document) == outcome(copy.deepcopy(document))


def nested(make, depth):
    value = "x"
    for _ in range(depth):
        value = make(value)
    return value


@pytest.mark.parametrize("document", RICH[:3])
@pytest.mark.parametrize("make", [lambda inner: [inner], lambda inner: {"matchLabels": inner}])
def test_depth_costs_nothing(document, make):
    deep = nested(make, 100_000)
    for path in sample(places(document)):
        outcome(replaced(document, path, deep) if path else deep)


@pytest.mark.slow
def test_ten_thousand_rules_are_read_in_seconds_and_every_one_that_is_wrong_is_counted():
    chance = Random(1)
    kinds = [json.dumps({"endpointSelector": {}, **random_policies.rule(chance)}) for _ in range(100)]
    rules = [
        json.loads(chance.choice(kinds)) for _ in range(examples(10_000, least=2000))
    ]  # no two are the same object
    document = cnp()
    del document["spec"]
    started = time.process_time()
    assert len(outcome({**document, "specs": rules}).rules) == len(rules)
    errors = outcome({**document, "specs": [{**one, "nonsense": 1} for one in rules[:2000]]})
    assert time.process_time() - started < 20
    assert len(errors) == 1001
    assert errors[-1].message == "1000 more errors are not listed"


@pytest.mark.slow
@pytest.mark.parametrize("document", RICH)
def test_a_text_of_ten_megabytes_in_any_place_is_read_or_refused_in_a_moment(document):
    text = "a-" * 5_000_000
    texts = [path for path in places(document) if isinstance(at(document, path), str)]
    for path in sample(texts):
        started = time.process_time()
        outcome(replaced(document, path, text))
        assert time.process_time() - started < 2, path
