"""Flows out of files: what counts as one, which are selected, and by which filters."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from google.protobuf.json_format import MessageToJson, ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.hubble.cli import files
from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.main import cli
from cplane.hubble.cli.matching import FIELDS, chosen
from cplane.hubble.encode import Encoder
from cplane.hubble.flow import FlowBuilder
from cplane.pb.flow import flow_pb2
from tests.support.effort import examples
from tests.support.flow_filters import flow_filters, named_world, selected
from tests.support.flows import record_batches, records, responses, store_of
from tests.support.tree import ROOT

Filter = flow_pb2.FlowFilter

ENDS = "shop/web-7f9:43512 (ID:24119) -> shop/api-55c"
LINES = [
    f"Jul 24 10:02:11.000: {ENDS}:80 (ID:31001) to-endpoint FORWARDED (TCP Flags: SYN)",
    f"Jul 24 10:02:11.001: {ENDS}:81 (ID:31001) to-endpoint FORWARDED (TCP Flags: SYN)",
    f"Jul 24 10:02:11.002: {ENDS}:82 (ID:31001) to-endpoint FORWARDED (TCP Flags: SYN)",
]
LOST = '{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"3","cpu":1}}'


@pytest.fixture(scope="module")
def sent() -> list[str]:
    """Three flows as `-o jsonpb` writes them."""
    store = store_of(records({}, {"dport": 81}, {"dport": 82}))
    return [
        MessageToJson(one, preserving_proto_field_name=True, indent=None) for one in responses(store, Encoder(store))
    ]


@pytest.fixture
def file(tmp_path: Path, sent: list[str]) -> Path:
    path = tmp_path / "flows.json"
    path.write_text("".join(f"{line}\n" for line in sent))
    return path


def observe(path: Path | str, *words: str) -> Result:
    """The command, for which there is no server."""
    command = ["observe", "--input-file", str(path), *words]
    return CliRunner().invoke(cli, command, prog_name="hubble", env={"HUBBLE_SERVER": "unix:///no/such.sock"})


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ((), (0, 1, 2)),
        (("--follow",), (0, 1, 2)),
        (("--all",), (0, 1, 2)),
        (("--last", "2"), (1, 2)),
        (("--first", "2"), (0, 1)),
        (("--last", "9"), (0, 1, 2)),
        (("--to-port", "81"), (1,)),
        (("--not", "--to-port", "81"), (0, 2)),
        (("--last", "1", "--not", "--to-port", "82"), (1,)),
        (("--pod", "shop/api", "-t", "trace"), (0, 1, 2)),
        (("--since", "2024-07-24T10:02:11.001Z"), (1, 2)),
        (("--until", "2024-07-24T10:02:11.001Z"), (0, 1)),
        (("--denylist", '{"destination_port":["80"]}'), (1, 2)),
        (("--label", "app=api"), (0, 1, 2)),
        (("--label", "app=db"), ()),
    ],
)
def test_selectors_and_filters_select(file: Path, words: tuple[str, ...], numbers: tuple[int, ...]):
    shown = observe(file, *words)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout == "".join(f"{LINES[number]}\n" for number in numbers)


def test_json_goes_in_as_it_came_out(file: Path, sent: list[str]):
    again = observe(file, "-o", "jsonpb").stdout.splitlines()
    assert [json.loads(line) for line in again] == [json.loads(line) for line in sent]
    masked = observe(file, "-o", "json", "--field-mask", "verdict,source.pod_name", "--last", "1").stdout
    assert json.loads(masked)["flow"] == {"verdict": "FORWARDED", "source": {"pod_name": "web-7f9"}}


@pytest.mark.parametrize(
    "extensions",
    [
        {"@type": "type.googleapis.com/example.New", "value": "AP8="},
        {"@type": "example.New", "value": "not bytes"},
        {"@type": "type.googleapis.com/example.New", "depth": {"of": 7}},
    ],
)
@pytest.mark.parametrize("more", [{}, {"time": "2024-07-24T12:02:11+02:00"}])
def test_a_flow_outlives_an_extension_that_nobody_knows(
    tmp_path: Path, sent: list[str], extensions: dict[str, Any], more: dict[str, Any]
):
    path = tmp_path / "newer.json"
    line = json.loads(sent[0])
    line["flow"] |= {"extensions": extensions, **more}
    path.write_text(json.dumps(line))
    shown = observe(path)
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, f"{LINES[0]}\n", "")


def test_bare_flows_and_losses_are_read_too(tmp_path: Path, sent: list[str]):
    path = tmp_path / "old.json"
    bare = json.dumps(json.loads(sent[1])["flow"])
    path.write_text(f'{bare}\n\n{LOST}\n{{"agent_event":{{"type":"AGENT_STARTED"}},"node_name":"x"}}\n{sent[2]}')
    shown = observe(path)
    assert shown.stdout.splitlines() == [LINES[1], "EVENTS LOST: HUBBLE_RING_BUFFER CPU(1) 3", LINES[2]]
    assert json.loads(observe(path, "-o", "json", "--first", "1").stdout)["node_name"] == "default/node1"


def test_standard_input_is_shown_as_it_comes(sent: list[str]):
    command = [sys.executable, "-m", "cplane.hubble.cli.main", "observe", "--input-file", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line, shown in zip(sent, LINES, strict=True):
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline() == f"{shown}\n".encode()
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[1]", "it is no object"),
        ("{}", "it has no field of a flow"),
        ('{"flow":"x"}', "its flow is no object"),
        ('{"flow":[]}', "its flow is no object"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"flow":{"verdict":[]}}', "Failed to parse verdict field"),
        ('{"flow":{"time":"x"}}', "Failed to parse time field"),
    ],
)
def test_a_line_that_is_no_flow_is_told_and_passed_over(tmp_path: Path, sent: list[str], line: str, told: str):
    path = tmp_path / "mixed.json"
    path.write_text(f"{sent[0]}\n{line}\n{sent[1]}\n")
    shown = observe(path)
    assert (shown.exit_code, shown.stdout.splitlines()) == (0, LINES[:2])
    assert shown.stderr.startswith(f"{path}, line 2: not a flow: {told}")
    assert observe(path, "-s").stderr == ""


def test_many_wrong_lines_are_counted_and_a_file_of_nothing_else_is_refused(tmp_path: Path, sent: list[str]):
    path = tmp_path / "x.json"
    path.write_text(f"{sent[0]}\n" + "x\n" * 25)
    assert observe(path).stderr.splitlines()[-1] == f"{path}: 15 more lines are not flows"
    path.write_text("x\n" * 25)
    shown = observe(path, "-s")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr == f"{path}: none of its 25 lines is a flow; write it with observe -o jsonpb\n"


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert observe("/no/such").stderr == "failed to open /no/such: No such file or directory\n"
    assert observe(tmp_path).stderr == f"failed to open {tmp_path}: Is a directory\n"
    monkeypatch.setattr(files, "LINE_MAX", 10)
    path = tmp_path / "long"
    path.write_text("x" * 100)
    assert observe(path).stderr == f"{path}: a line has more than 10 bytes; these are not lines of JSON\n"
    too_many = observe(path, "--last", "2000000")
    assert too_many.stderr.startswith("--last 2000000: of a file these may be 1048576 at most")


@settings(max_examples=examples(200), deadline=None)
@given(
    batch=record_batches(),
    whitelist=st.lists(flow_filters(), max_size=2),
    blacklist=st.lists(flow_filters(), max_size=2),
)
def test_filters_select_what_their_literal_reading_selects(
    batch: np.ndarray, whitelist: list[Filter], blacklist: list[Filter]
):
    store = store_of(batch, world=named_world())
    span = store.ring.span(0, store.ring.written)
    test = chosen(whitelist, blacklist)
    for row in range(len(span)):
        flow = FlowBuilder(store).flow(span, row)
        assert test(flow) == selected(flow, whitelist, blacklist)


REQUEST = {
    "IP": {"source": "10.0.0.1", "destination": "fd00::1", "source_xlated": "192.0.2.1", "encrypted": True},
    "l4": {"TCP": {"source_port": 1, "destination_port": 80}},
    "l7": {
        "http": {
            "code": 404,
            "method": "GET",
            "url": "http://api/pub/a?x=1",
            "headers": [{"key": "X", "value": "1"}],
        }
    },
    "event_type": {"type": 129},
    "source_service": {"namespace": "shop", "name": "web"},
    "destination_names": ["api.Example.org."],
    "node_name": "node1",
    "node_labels": ["k8s:zone=a"],
    "trace_context": {"parent": {"trace_id": "abc"}},
    "ip_trace_id": {"trace_id": "7"},
}


@pytest.mark.parametrize(
    ("fits", "fails"),
    [
        ({"http_status_code": ["404"]}, {"http_status_code": ["403"]}),
        ({"http_status_code": ["5+", "40+"]}, {"http_status_code": ["5+"]}),
        ({"http_method": ["get"]}, {"http_method": ["PUT"]}),
        ({"http_path": ["^/pub/.$"]}, {"http_path": ["x=1"]}),
        ({"http_url": ["api.*x=1"]}, {"http_url": ["^/pub"]}),
        ({"http_header": [{"key": "X", "value": "1"}]}, {"http_header": [{"key": "X", "value": "2"}]}),
        ({"destination_fqdn": ["*.example.org"]}, {"source_fqdn": ["*.example.org"]}),
        ({"source_service": ["shop/w"]}, {"destination_service": ["shop/w"]}),
        ({"source_ip_xlated": ["192.0.2.0/24"]}, {"source_ip_xlated": ["10.0.0.1"]}),
        ({"encrypted": [True]}, {"encrypted": [False]}),
        ({"node_labels": ["zone in (a,b)"]}, {"node_labels": ["zone=b"]}),
        ({"node_name": ["default/node*"]}, {"node_name": ["other/"]}),
        ({"trace_id": ["abc"]}, {"trace_id": ["ab"]}),
        ({"ip_trace_id": ["7"]}, {"ip_trace_id": ["8"]}),
        ({"protocol": ["http"]}, {"protocol": ["dns"]}),
        ({"protocol": ["tcp"], "http_method": ["GET"]}, {"protocol": ["udp"], "http_method": ["GET"]}),
    ],
)
def test_filters_about_requests_and_names_select(fits: dict[str, Any], fails: dict[str, Any]):
    flow = ParseDict(REQUEST, flow_pb2.Flow())
    assert chosen([ParseDict(fits, Filter())], [])(flow)
    assert not chosen([ParseDict(fails, Filter())], [])(flow)
    assert not chosen([], [ParseDict(fits, Filter())])(flow)


def test_a_flow_that_says_little_fits_no_filter_about_the_rest():
    for wanted in ({"node_name": ["*/*"]}, {"event_type": [{}]}, {"interface": [{}]}, {"ip_trace_id": ["0"]}):
        assert not chosen([ParseDict(wanted, Filter())], [])(flow_pb2.Flow())
        assert chosen([], [ParseDict(wanted, Filter())])(flow_pb2.Flow())


def test_a_query_is_searched():
    flow = ParseDict({"l7": {"dns": {"query": "api.example.org."}}}, flow_pb2.Flow())
    assert chosen([Filter(dns_query=["example"])], [])(flow)
    assert not chosen([Filter(dns_query=["^example"])], [])(flow)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"source_ip": ["x"]}, "filter source_ip: 'x' does not appear to be an IPv4 or IPv6 address"),
        ({"source_port": ["http"]}, "filter source_port: 'http' is not a port (0 to 65535)"),
        ({"source_pod": [""]}, "filter source_pod: it is empty; write namespace/prefix, namespace/ or prefix"),
        ({"source_label": ["a==="]}, "filter source_label: 'a===' is not a label selector"),
        ({"protocol": ["ipx"]}, "filter protocol: 'ipx' is none of icmp, "),
        ({"node_name": ["a/b/c"]}, "filter node_name: 'a/b/c' is not cluster/node, node or cluster/"),
        ({"node_name": ["other/a b"]}, "filter node_name: 'a b' is not a name pattern"),
        ({"source_fqdn": ["a b"]}, "filter source_fqdn: 'a b' is not a name pattern"),
        ({"destination_fqdn": [""]}, "filter destination_fqdn: '' is not a name pattern"),
        ({"source_label": ["a>b"]}, "filter source_label: 'a>b': 'b' is not a number"),
        ({"source_cluster_name": [""]}, "filter source_cluster_name: it is empty"),
        ({"http_status_code": ["4"]}, "filter http_status_code: '4' is not a status code such as 404, 40+ or 4+"),
        ({"http_path": ["("]}, "filter http_path: it is not a regular expression: "),
        ({"http_method": ["GET"], "event_type": [{"type": 4}]}, "filter http_method: it needs the event type l7"),
    ],
)
def test_a_filter_that_no_server_would_take_is_refused(wanted: dict[str, Any], told: str):
    with pytest.raises(Failed) as refused:
        chosen([ParseDict(wanted, Filter())], [])
    assert refused.value.message.startswith(told)


def test_every_field_of_a_filter_is_evaluated():
    assert set(FIELDS) == {field.name for field in Filter.DESCRIPTOR.fields}


def test_expressions_are_evaluated():
    flow = ParseDict(REQUEST, flow_pb2.Flow())

    def fits(*texts: str) -> bool:
        return chosen([Filter(experimental=Filter.Experimental(cel_expression=texts))], [])(flow)

    assert fits("_flow.l4.TCP.destination_port == 80u || _flow.l4.TCP.destination_port == 80")
    assert fits("_flow.node_name == 'x'", "_flow.node_name.startsWith('node')")
    assert not fits("_flow.node_name == 'x'")
    assert not fits("int(_flow.node_name) == 1")
    assert fits()
    with pytest.raises(Failed, match="undefined field 'nothing'"):
        fits("_flow.nothing == 1")
