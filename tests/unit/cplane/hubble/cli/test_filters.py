"""Filter flags become FlowFilter messages."""

from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from cplane.domain.identity import Reserved
from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.filters import flow_filters
from cplane.hubble.cli.flags import EVENT_TYPES, FLAGS, TRACE_POINTS, VERDICTS
from cplane.hubble.cli.values import ENDS, WHOLE
from cplane.hubble.filters import EXPERIMENTAL, FIELDS
from cplane.pb.flow import flow_pb2
from datapath.notify.records import TracePoint

Given = Sequence[tuple[str, str]]


def flags(*words: str) -> list[tuple[str, str]]:
    """`--pod a --not --port b` as (flag, value) pairs."""
    pairs: list[tuple[str, str]] = []
    for word in words:
        if word.startswith("--"):
            pairs.append((word.removeprefix("--"), "true"))
        else:
            pairs[-1] = (pairs[-1][0], word)
    return pairs


def filters(*dicts: dict[str, Any]) -> list[flow_pb2.FlowFilter]:
    return [ParseDict(one, flow_pb2.FlowFilter()) for one in dicts]


def both(name: str, *values: Any) -> list[dict[str, Any]]:
    """A filter about the source, and one about the destination."""
    return [{f"source_{name}": values}, {f"destination_{name}": values}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (flags(), []),
        (flags("--from-ip", "1.2.3.4", "--from-ip", "5.6.7.0/24"), [{"source_ip": ["1.2.3.4", "5.6.7.0/24"]}]),
        (flags("--to-ip", "::1"), [{"destination_ip": ["::1"]}]),
        (flags("--ip", "1.1.1.1"), both("ip", "1.1.1.1")),
        (flags("--pod", "shop/web", "--pod", "db"), both("pod", "shop/web", "db")),
        (flags("--label", "a=b,c", "--label", "d"), both("label", "a=b,c", "d")),
        (flags("--port", "80"), both("port", "80")),
        (flags("--service", "x"), both("service", "x")),
        (flags("--fqdn", "*.a.b"), both("fqdn", "*.a.b")),
        (flags("--cluster", "one", "--cluster", "two"), both("cluster_name", "one", "two")),
        (flags("--identity", "world", "--identity", "0x10"), both("identity", 2, 16)),
        (
            flags("--workload", "web", "--workload", "Deployment/", "--workload", "StatefulSet/db/x"),
            both("workload", {"name": "web"}, {"kind": "Deployment"}, {"kind": "StatefulSet", "name": "db/x"}),
        ),
        (
            flags("--from-identity", "42", "--to-identity", "host"),
            [{"source_identity": [42], "destination_identity": [1]}],
        ),
        (
            flags("--from-workload", "a", "--to-workload", "b"),
            [{"source_workload": [{"name": "a"}], "destination_workload": [{"name": "b"}]}],
        ),
        # what is about one end stands in both messages
        (
            flags("--pod", "cilium", "--to-identity", "42"),
            [
                {"source_pod": ["cilium"], "destination_identity": [42]},
                {"destination_pod": ["cilium"], "destination_identity": [42]},
            ],
        ),
        (
            flags("--ip", "1.2.3.4", "--verdict", "DROPPED", "--node-name", "k8s*"),
            [
                {"source_ip": ["1.2.3.4"], "verdict": ["DROPPED"], "node_name": ["k8s*"]},
                {"destination_ip": ["1.2.3.4"], "verdict": ["DROPPED"], "node_name": ["k8s*"]},
            ],
        ),
        # namespaces go to pods and services, or stand for all pods
        (
            flags("--namespace", "shop", "--port", "443"),
            [
                {"source_pod": ["shop/"], "source_port": ["443"]},
                {"destination_pod": ["shop/"], "destination_port": ["443"]},
            ],
        ),
        (flags("--from-namespace", "a", "--from-namespace", "b"), [{"source_pod": ["a/", "b/"]}]),
        (
            flags("--to-namespace", "a", "--port", "443"),
            [
                {"destination_pod": ["a/"], "source_port": ["443"]},
                {"destination_pod": ["a/"], "destination_port": ["443"]},
            ],
        ),
        (flags("--namespace", "a", "--pod", "x"), both("pod", "a/x")),
        (
            flags("--namespace", "a", "--namespace", "b", "--service", "x", "--service", "y"),
            both("service", "a/x", "b/x", "a/y", "b/y"),
        ),
        (flags("--to-namespace", "a", "--to-pod", "a/x"), [{"destination_pod": ["a/x"]}]),
        (flags("--from-namespace", "k", "--to-pod", "a/x"), [{"source_pod": ["k/"], "destination_pod": ["a/x"]}]),
        (flags("--all-namespaces"), both("pod", "/")),
        (flags("--all-namespaces", "--pod", "x"), both("pod", "/x")),
        (flags("--to-all-namespaces", "--to-service", "x"), [{"destination_service": ["/x"]}]),
        (flags("--from-all-namespaces"), [{"source_pod": ["/"]}]),
        # about the whole flow
        (flags("--uuid", "b9fa"), [{"uuid": ["b9fa"]}]),
        (flags("--protocol", "tcp", "--protocol", "UDP"), [{"protocol": ["tcp", "UDP"]}]),
        (
            flags("--tcp-flags", "syn,ACK", "--tcp-flags", "fin"),
            [{"tcp_flags": [{"SYN": True, "ACK": True}, {"FIN": True}]}],
        ),
        (flags("--verdict", "FORWARDED", "--verdict", "AUDIT"), [{"verdict": ["FORWARDED", "AUDIT"]}]),
        (flags("--drop-reason-desc", "POLICY_DENIED"), [{"drop_reason_desc": ["POLICY_DENIED"]}]),
        (flags("--ipv4", "--ipv6"), [{"ip_version": ["IPv4", "IPv6"]}]),
        (flags("--ip-version", "v6", "--ip-version", "none"), [{"ip_version": ["IPv6", "IP_NOT_USED"]}]),
        (
            flags("--traffic-direction", "Ingress", "--traffic-direction", "egress"),
            [{"traffic_direction": ["INGRESS", "EGRESS"]}],
        ),
        (flags("--interface", "eth0"), [{"interface": [{"name": "eth0"}]}]),
        (flags("--snat-ip", "1.1.1.1"), [{"source_ip_xlated": ["1.1.1.1"]}]),
        (flags("--node-label", "a=b"), [{"node_labels": ["a=b"]}]),
        (flags("--encrypted"), [{"encrypted": [True]}]),
        (flags("--unencrypted"), [{"encrypted": [False]}]),
        (flags("--http-status", "404", "--http-status", "5+"), [{"http_status_code": ["404", "5+"]}]),
        (
            flags("--http-method", "get", "--http-path", "/p", "--http-url", "u"),
            [{"http_method": ["get"], "http_path": ["/p"], "http_url": ["u"]}],
        ),
        (flags("--http-header", "Foo:co:bar"), [{"http_header": [{"key": "Foo", "value": "co:bar"}]}]),
        (flags("--trace-id", "x"), [{"trace_id": ["x"]}]),
        (flags("--ip-trace-id", "7"), [{"ip_trace_id": ["7"]}]),
        (flags("--cel-expression", "true"), [{"experimental": {"cel_expression": ["true"]}}]),
        (
            flags(
                "--type",
                "254",
                "--type",
                "255:127",
                "--type",
                "trace:to-endpoint",
                "--type",
                "4:from-stack",
                "--type",
                "drop:133",
                "--type",
                "l7",
                "--type",
                "trace-sock",
            ),
            [
                {
                    "event_type": [
                        {"type": 254},
                        {"type": 255, "match_sub_type": True, "sub_type": 127},
                        {"type": 4, "match_sub_type": True},
                        {"type": 4, "match_sub_type": True, "sub_type": 8},
                        {"type": 1, "match_sub_type": True, "sub_type": 133},
                        {"type": 129},
                        {"type": 7},
                    ]
                }
            ],
        ),
    ],
)
def test_flags_become_messages(given: Given, expected: list[dict[str, Any]]):
    assert flow_filters(given) == (filters(*expected), [])
    negated = [pair for one in given for pair in (("not", "true"), one)]
    assert flow_filters(negated) == ([], filters(*expected))


def test_not_reverses_the_next_flag_only():
    given = flags(
        *("--ip", "1.2.3.4", "--not", "--pod", "deathstar", "--not", "--http-status", "200"),
        *("--http-method", "get", "--verdict", "DROPPED"),
    )
    wanted, unwanted = flow_filters(given)
    assert wanted == filters(
        {"source_ip": ["1.2.3.4"], "http_method": ["get"], "verdict": ["DROPPED"]},
        {"destination_ip": ["1.2.3.4"], "http_method": ["get"], "verdict": ["DROPPED"]},
    )
    assert unwanted == filters(
        {"source_pod": ["deathstar"], "http_status_code": ["200"]},
        {"destination_pod": ["deathstar"], "http_status_code": ["200"]},
    )


SIDES = ("ip", "pod", "label", "service", "port", "fqdn", "identity", "workload", "namespace")
CONFLICTS = [
    *((f"{side}-{name}", name) for name in SIDES for side in ("from", "to")),
    *((one, other) for one in ("ip", "fqdn") for other in ("pod", "namespace", "all-namespaces") if one != other),
    *(
        (f"{side}-{one}", f"{side}-{other}")
        for side in ("from", "to")
        for one in ("ip", "fqdn")
        for other in ("pod", "namespace", "all-namespaces")
    ),
    ("ip", "fqdn"),
    ("from-ip", "from-fqdn"),
    ("to-ip", "to-fqdn"),
    ("from-ip", "fqdn"),
    ("to-fqdn", "ip"),
    ("namespace", "all-namespaces"),
    ("from-namespace", "from-all-namespaces"),
    ("to-namespace", "to-all-namespaces"),
    *(
        (name, namespace)
        for name in ("from-pod", "to-pod", "from-service", "to-service")
        for namespace in ("namespace", "all-namespaces")
    ),
    ("encrypted", "unencrypted"),
]


@pytest.mark.parametrize(("one", "other"), CONFLICTS)
def test_flags_that_exclude_each_other_are_refused_in_either_order(one: str, other: str):
    values = {"identity": "1", "port": "80"}
    for first, second in ((one, other), (other, one)):
        pairs = [(name, values.get(name.rpartition("-")[2], "x")) for name in (first, second)]
        with pytest.raises(Failed) as told:
            flow_filters(pairs)
        assert str(told.value.message) in {
            f'invalid argument "{pairs[1][1]}" for "{shown(second)}" flag: filters --{a} and --{b} cannot be combined'
            for a, b in ((one, other), (other, one))
        }
        # one of them for what is shown, one for what is not: that is no conflict
        flow_filters([pairs[0], ("not", "true"), pairs[1]])


def shown(name: str) -> str:
    return next(flag.shown for flag in FLAGS if flag.name == name)


def test_the_first_of_a_group_is_named_first():
    with pytest.raises(Failed, match="filters --service and --from-service cannot be combined"):
        flow_filters(flags("--from-service", "foo", "--service", "bar"))
    with pytest.raises(Failed, match="filters --from-fqdn and --from-ip cannot be combined"):
        flow_filters(flags("--from-ip", "1.2.3.4", "--from-fqdn", "a.b"))


@pytest.mark.parametrize(
    "given",
    [
        flags(
            "--to-service",
            "a",
            "--from-service",
            "b",
            "--from-identity",
            "world",
            "--to-identity",
            "world",
            "--to-ip",
            "1.2.3.4",
            "--from-pod",
            "c",
            "--from-port",
            "1",
            "--to-port",
            "2",
            "--workload",
            "d",
        ),
        flags("--service", "a", "--pod", "b", "--namespace", "c", "--from-port", "1", "--workload", "d"),
        flags("--to-fqdn", "a.b", "--from-pod", "c", "--from-namespace", "d"),
    ],
)
def test_flags_about_different_ends_go_together(given: Given):
    assert flow_filters(given)[0]


NO_TYPE = "unable to parse {}, not a known {} name and unable to parse as numeric value: {}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (flags("--not", "--not"), 'invalid argument "true" for "--not" flag: consecutive --not statements'),
        (flags("--pod", "a", "--not"), "trailing --not found in the arguments"),
        (
            flags("--verdict", "ALLOWED"),
            'invalid argument "ALLOWED" for "--verdict" flag: invalid --verdict value: ALLOWED',
        ),
        (
            flags("--drop-reason-desc", ""),
            'invalid argument "" for "--drop-reason-desc" flag: empty --drop-reason-desc value',
        ),
        (
            flags("--drop-reason-desc", "X"),
            'invalid argument "X" for "--drop-reason-desc" flag: invalid --drop-reason-desc value: X',
        ),
        (
            flags("--type", "agent"),
            'invalid argument "agent" for "-t, --type" flag: '
            + NO_TYPE.format("type 'agent'", "type", "invalid syntax"),
        ),
        (
            flags("--type", "trace:x"),
            'invalid argument "trace:x" for "-t, --type" flag: '
            + NO_TYPE.format("event sub-type 'x'", "sub-type", "invalid syntax"),
        ),
        (
            flags("--type", "drop:to-endpoint"),
            'invalid argument "drop:to-endpoint" for "-t, --type" flag: '
            + NO_TYPE.format("event sub-type 'to-endpoint'", "sub-type", "invalid syntax"),
        ),
        (
            flags("--type", "4294967296"),
            'invalid argument "4294967296" for "-t, --type" flag: '
            + NO_TYPE.format("type '4294967296'", "type", "value out of range"),
        ),
        (flags("--tcp-flags", "syn,"), 'invalid argument "syn," for "--tcp-flags" flag: unknown tcp flag: '),
        (
            flags("--identity", "bad"),
            (
                'invalid argument "bad" for "--identity" flag: invalid security identity, expected one of [host world '
                "unmanaged health init remote-node kube-apiserver ingress world-ipv4 world-ipv6] or a numeric value"
            ),
        ),
        (
            flags("--traffic-direction", "Up"),
            (
                'invalid argument "Up" for "--traffic-direction" flag: up: invalid traffic direction, '
                "expected ingress or egress"
            ),
        ),
        (flags("--ip-version", "v5"), 'invalid argument "v5" for "--ip-version" flag: invalid --ip-version value: v5'),
        (
            flags("--http-header", "x"),
            'invalid argument "x" for "--http-header" flag: invalid http-header value "x", expected name:value',
        ),
        (
            flags("--ip-trace-id", "0"),
            'invalid argument "0" for "--ip-trace-id" flag: invalid --ip-trace-id value; must be greater than 0',
        ),
        (
            flags("--ip-trace-id", "x"),
            'invalid argument "x" for "--ip-trace-id" flag: invalid --ip-trace-id value: invalid syntax',
        ),
        (
            flags("--to-namespace", "k", "--to-pod", "c/x"),
            'invalid argument "c/x" for "--to-pod" flag: namespace conflict: "k" does not contain "c/x"',
        ),
        (
            flags("--from-service", "c/x", "--from-pod", "k/y"),
            'invalid argument "k/y" for "--from-pod" flag: namespace of service "c/x" conflict with pod "k"',
        ),
        (
            flags("--from-pod", "k/y", "--from-service", "x"),
            'invalid argument "x" for "--from-service" flag: namespace of service "x" conflict with pod "k"',
        ),
    ],
)
def test_what_is_wrong_is_said_in_upstreams_words(given: Given, message: str):
    with pytest.raises(Failed) as told:
        flow_filters(given)
    assert told.value.message == message


@pytest.mark.parametrize("text", ["-1", "1_0", " 1", "0x", "4294967296", "", "٣"])
def test_an_identity_is_a_number_of_32_bits(text: str):
    with pytest.raises(Failed, match="invalid security identity"):
        flow_filters([("identity", text)])


def test_every_flag_has_its_field_and_the_server_knows_the_field():
    fields = {field for field, _ in WHOLE.values()} | {"experimental"}
    fields |= {f"{side}_{field}" for field, _ in ENDS.values() for side in ("source", "destination")}
    known = FIELDS.keys() | {EXPERIMENTAL}
    assert fields <= known
    assert known - fields == {"reply", "dns_query"}, "upstream has no flags for these"
    plain = {flag.name.removeprefix("from-").removeprefix("to-") for flag in FLAGS}
    assert plain - ENDS.keys() - WHOLE.keys() == {"not", "namespace", "all-namespaces", "cel-expression"}


def test_the_words_of_flags_are_those_of_the_messages():
    assert set(VERDICTS) == set(flow_pb2.Verdict.keys()) - {"VERDICT_UNKNOWN"}
    assert [point.name.lower().replace("_", "-") for point in sorted(TracePoint)] == [
        TRACE_POINTS[point] for point in sorted(TracePoint)
    ]
    assert EVENT_TYPES["l7"] == 129
    assert len({one.label_key for one in Reserved}) == len(Reserved)
