"""Files of flow logs, as upstream writes them, and what is wrong with others."""

import pytest

from cplane.config.model import HubbleConfig
from cplane.hubble.exporter.config import STATIC, BadExport, Export, parse_flow_logs, static_export
from cplane.pb.flow import flow_pb2

UPSTREAM = b"""
flowLogs:
- name: "all"
  filePath: "/var/run/cilium/hubble/all.log"
  fieldMask: []
  includeFilters: []
  excludeFilters: []
  end: "2023-10-09T23:59:59-07:00"
- name: denied
  filePath: /var/run/cilium/hubble/denied.log
  fieldMask: [time, source.namespace]
  includeFilters:
  - source_pod: ["shop/"]
    verdict: [DROPPED]
  - event_type: [{type: 1}]
  excludeFilters:
  - destination_port: ["53"]
  fileMaxSizeMb: 100
  fileMaxBackups: 2
  fileCompress: true
"""


def test_a_file_of_upstream_is_understood() -> None:
    everything, denied = parse_flow_logs(UPSTREAM)
    assert everything == Export(name="all", path="/var/run/cilium/hubble/all.log", end_ns=1_696_921_199 * 10**9)
    assert (denied.fields, denied.max_bytes, denied.backups) == (("time", "source.namespace"), 100_000_000, 2)
    assert denied.compress
    include, exclude = denied.filters
    assert include == [
        flow_pb2.FlowFilter(source_pod=["shop/"], verdict=[flow_pb2.DROPPED]),
        flow_pb2.FlowFilter(event_type=[flow_pb2.EventTypeFilter(type=1)]),
    ]
    assert exclude == [flow_pb2.FlowFilter(destination_port=["53"])]


@pytest.mark.parametrize("text", [b"", b"flowLogs: []", b"# nothing\n"])
def test_no_exports_are_an_answer(text: bytes) -> None:
    assert parse_flow_logs(text) == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"- a", "the file: it is not a mapping with the one key flowLogs"),
        (b"flowlogs: []", "the file: it is not a mapping"),
        (b"flowLogs: [", "the file: "),
        (b"flowLogs: [3]", "flowLogs[0]: it is not a mapping"),
        (b"flowLogs: [{filePath: /a}]", "flowLogs[0].name: it is missing"),
        (b"flowLogs: [{name: a, filePath: a}]", "flowLogs[0].filePath: 'a' is not an absolute path"),
        (b"flowLogs: [{name: a, filepath: /a}]", "flowLogs[0].filepath: unknown key; known are name, filePath"),
        (b"flowLogs: [{name: a, filePath: /a, fieldMask: time}]", "flowLogs[0].fieldMask: a list of texts is wanted"),
        (
            b"flowLogs: [{name: a, filePath: /a, fieldMask: [time, source.pod]}]",
            "fieldMask: 'source.pod' is no field of",
        ),
        (b"flowLogs: [{name: a, filePath: /a, fieldMask: [source.labels.key]}]", "'source.labels.key' is no field of"),
        (b"flowLogs: [{name: a, filePath: /a, end: soon}]", "flowLogs[0].end: 'soon' is not a time such as"),
        (b"flowLogs: [{name: a, filePath: /a, fileMaxSizeMb: -1}]", "flowLogs[0].fileMaxSizeMb: -1 is not from 0"),
        (b"flowLogs: [{name: a, filePath: /a, includeFilters: [{pod: [a]}]}]", "includeFilters[0]: it is not a filter"),
        (b"flowLogs: [{name: a, filePath: /a, includeFilters: [a]}]", "includeFilters[0]: a filter is a mapping"),
        (b"flowLogs: [{name: a, filePath: /a}, {name: a, filePath: /b}]", "flowLogs[1].name: 'a' is taken"),
        (b"flowLogs: [{name: a, filePath: /a}, {name: b, filePath: /a}]", "another one writes to /a"),
        (b"flowLogs: [{name: static, filePath: /a}]", "'static' is taken"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_where(text: bytes, reason: str) -> None:
    with pytest.raises(BadExport) as refused:
        parse_flow_logs(text)
    assert reason in str(refused.value)


def test_the_agents_configuration_has_an_export_of_its_own() -> None:
    assert static_export(HubbleConfig()) is None
    export = static_export(
        HubbleConfig(
            export_file_path="/var/log/flows.log",
            export_allowlist='{"verdict":["DROPPED"]}\n{"source_pod":["shop/"]}',
            export_denylist=' {"source_port":["53"]} ',
            export_fieldmask=("time", "verdict"),
            export_file_max_size_mb=1,
        )
    )
    assert export is not None
    assert (export.name, export.path, export.fields, export.max_bytes) == (
        STATIC,
        "/var/log/flows.log",
        ("time", "verdict"),
        1_000_000,
    )
    assert [len(one) for one in export.filters] == [2, 1]


@pytest.mark.parametrize("text", ["[]", "{", '{"verdict":["GONE"]}', "{}x", '"a"', "[" * 100_000])
def test_lists_of_filters_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadExport, match=r"hubble\.export_allowlist: "):
        static_export(HubbleConfig(export_file_path="/a", export_allowlist=text))


def test_a_field_that_no_flow_has_is_refused() -> None:
    with pytest.raises(BadExport, match=r"hubble\.export_fieldmask: 'verdikt' is no field of a flow"):
        static_export(HubbleConfig(export_file_path="/a", export_fieldmask=("time", "verdikt")))
