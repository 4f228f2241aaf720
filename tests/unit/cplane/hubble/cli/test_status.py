"""The status of a server, and its namespaces, in every format."""

from typing import Any

import pytest

from cplane.hubble.cli import listing
from cplane.hubble.cli.durations import duration
from cplane.hubble.cli.status import render
from cplane.pb.observer import observer_pb2 as pb


def status(**changes: Any) -> pb.ServerStatusResponse:
    fields = {"num_flows": 2031, "max_flows": 4095, "seen_flows": 2_348_885, "uptime_ns": 301_515_181_665}
    return pb.ServerStatusResponse(**{**fields, "flows_rate": 23.456, "version": "cplane 1.2.3", **changes})


def relay(unavailable: int, *names: str) -> pb.ServerStatusResponse:
    answer = status(unavailable_nodes=names)
    answer.num_connected_nodes.value, answer.num_unavailable_nodes.value = 2, unavailable
    return answer


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (status(), ["Current/Max Flows: 2,031/4,095 (49.60%)", "Flows/s: 23.46"]),
        (status(flows_rate=0), ["Current/Max Flows: 2,031/4,095 (49.60%)", "Flows/s: 7790.27"]),
        (status(flows_rate=0, uptime_ns=0, max_flows=0), ["Current/Max Flows: 2,031/0", "Flows/s: N/A"]),
        (relay(0), ["Current/Max Flows: 2,031/4,095 (49.60%)", "Flows/s: 23.46", "Connected Nodes: 2/2"]),
        (
            relay(3, "b\x1b", "a"),
            [
                "Current/Max Flows: 2,031/4,095 (49.60%)",
                "Flows/s: 23.46",
                "Connected Nodes: 2/5",
                "Unavailable Nodes: 3",
                "  - a",
                "  - b^[",
                "  - and 1 more...",
            ],
        ),
        (
            relay(1),
            [
                "Current/Max Flows: 2,031/4,095 (49.60%)",
                "Flows/s: 23.46",
                "Connected Nodes: 2/3",
                "Unavailable Nodes: 1",
            ],
        ),
    ],
)
def test_compact(answer: pb.ServerStatusResponse, lines: list[str]):
    assert render(answer, "compact").splitlines() == lines


def test_dict():
    assert render(relay(0), "dict") == (
        "          NUM FLOWS: 2,031\n"
        "          MAX FLOWS: 4,095\n"
        "         SEEN FLOWS: 2,348,885\n"
        "   FLOWS PER SECOND: 23.46\n"
        "             UPTIME: 5m1.515181665s\n"
        "NUM CONNECTED NODES: 2\n"
        " NUM UNAVAIL. NODES: 0\n"
        "            VERSION: cplane 1.2.3\n"
    )


def test_table():
    expected = [
        (
            "NUM FLOWS   MAX FLOWS   SEEN FLOWS   FLOWS PER SECOND   UPTIME           NUM CONNECTED NODES   "
            "NUM UNAVAILABLE NODES   VERSION"
        ),
        (
            "2,031       4,095       2,348,885    N/A                5m1.515181665s   N/A                   "
            "N/A                     cplane 1.2.3"
        ),
    ]
    for output in ("table", "tab"):
        assert render(status(flows_rate=0), output).splitlines() == expected


def test_json():
    for output in ("json", "jsonpb"):
        assert render(relay(0), output) == (
            '{"num_flows":"2031","max_flows":"4095","seen_flows":"2348885","uptime_ns":"301515181665",'
            '"num_connected_nodes":2,"num_unavailable_nodes":0,"version":"cplane 1.2.3","flows_rate":23.456}\n'
        )


@pytest.mark.parametrize(
    ("time_ns", "expected"),
    [
        (0, "0s"),
        (1, "1ns"),
        (999, "999ns"),
        (1_500, "1.5µs"),
        (100_000, "100µs"),
        (10_000_000, "10ms"),
        (1_000_000_000, "1s"),
        (1_000_000_001, "1.000000001s"),
        (100_000_000_000, "1m40s"),
        (3_600_000_000_000, "1h0m0s"),
        (10**15, "277h46m40s"),
        ((1 << 63) - 1, "2562047h47m16.854775807s"),
    ],
)
def test_a_duration_is_written_as_go_does(time_ns: int, expected: str):
    assert duration(time_ns) == expected


def test_namespaces():
    answer = pb.GetNamespacesResponse()
    answer.namespaces.add(cluster="default", namespace="shop")
    answer.namespaces.add(cluster="other", namespace="a")
    assert listing.render_namespaces(answer, "table") == "NAMESPACE\nshop\na\n"
    assert listing.render_namespaces(answer, "wide") == "NAMESPACE   CLUSTER\nshop        default\na           other\n"
    assert listing.render_namespaces(answer, "json") == (
        "[\n"
        '  {\n    "cluster": "default",\n    "namespace": "shop"\n  },\n'
        '  {\n    "cluster": "other",\n    "namespace": "a"\n  }\n'
        "]\n"
    )
    assert listing.render_namespaces(pb.GetNamespacesResponse(), "json") == "[]\n"
    assert listing.render_namespaces(pb.GetNamespacesResponse(), "table") == "NAMESPACE\n"
