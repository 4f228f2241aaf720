"""What the server is asked."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.observing import wanted_request
from cplane.hubble.cli.request import (
    EVERYTHING,
    POLICY_FIELDS,
    SHOWN_FIELDS,
    Selection,
    filters_yaml,
    flows_request,
    raw_filters,
)
from cplane.hubble.cli.settings import Settings
from cplane.hubble.cli.wanted import Wanted
from cplane.hubble.fieldmask import parse_mask
from cplane.pb.flow import flow_pb2
from cplane.pb.observer import observer_pb2 as pb

NOW = 1_721_815_331_000_000_000  # 2024-07-24T10:02:11Z


def request(**selected: Any) -> pb.GetFlowsRequest:
    return flows_request(Selection(**selected), whitelist=(), blacklist=(), mask=(), now_ns=NOW)


def stamped(since: int | None = None, until: int | None = None, **fields: Any) -> pb.GetFlowsRequest:
    one = pb.GetFlowsRequest(**fields)
    if since is not None:
        one.since.seconds = since
    if until is not None:
        one.until.seconds = until
    return one


SINCE = {"since": "2021-03-23T00:00:00Z"}
UNTIL = {"until": "2021-03-24T00:00:00Z"}
FROM, TO = 1_616_457_600, 1_616_544_000


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        ({}, stamped(number=20)),
        ({"last": 5}, stamped(number=5)),
        ({"first": 5}, stamped(number=5, first=True)),
        ({"all": True}, stamped(number=EVERYTHING)),
        ({"follow": True}, stamped(follow=True)),
        ({"follow": True, "last": 3}, stamped(follow=True, number=3)),
        ({"follow": True, "all": True}, stamped(follow=True, number=EVERYTHING)),
        ({**SINCE, **UNTIL}, stamped(FROM, TO)),
        ({**UNTIL}, stamped(until=TO)),
        ({**SINCE, "all": True}, stamped(FROM)),
        ({**SINCE, "last": 2}, stamped(FROM, number=2)),
        ({**SINCE, "first": 2}, stamped(FROM, number=2, first=True)),
        ({**SINCE, **UNTIL, "follow": True}, stamped(FROM, follow=True)),
        ({**UNTIL, "follow": True}, stamped(follow=True)),
        ({"since": "1m", "until": "1s"}, stamped(NOW // 10**9 - 60, NOW // 10**9 - 1)),
    ],
)
def test_selectors_become_a_number_and_times(selected: dict[str, Any], expected: pb.GetFlowsRequest):
    assert request(**selected) == expected


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        ({"first": 1, "last": 1}, "cannot set both --first and --last"),
        ({"first": 1, "all": True}, "cannot set both --first and --all"),
        ({"first": 1, "follow": True}, "cannot set both --first and --follow"),
        ({"last": 1, "all": True}, "cannot set both --last and --all"),
        ({"since": "x"}, "failed to parse the since time: failed to convert x to time"),
        ({"until": "x"}, "failed to parse the until time: failed to convert x to time"),
    ],
)
def test_what_cannot_be_selected_is_said(selected: dict[str, Any], message: str):
    with pytest.raises(Failed) as told:
        request(**selected)
    assert told.value.message == message


def wanted(environment: dict[str, str] | None = None, **fields: Any) -> pb.GetFlowsRequest:
    return wanted_request(Settings(environment=environment or {}, agent_socket=""), Wanted(**fields))


@pytest.mark.parametrize("output", ["compact", "dict", "table", "tab"])
def test_what_is_not_shown_is_not_asked_for(output: str):
    assert list(wanted(output=output).field_mask.paths) == list(SHOWN_FIELDS)
    assert list(wanted(output=output, policy_names=True).field_mask.paths) == [*SHOWN_FIELDS, *POLICY_FIELDS]
    assert not wanted(output=output, default_mask=False).field_mask.paths
    with pytest.raises(Failed, match=f"^{output} output format is not compatible with custom field mask$"):
        wanted(output=output, field_mask=("time",))


def test_json_asks_for_everything_or_for_what_is_said():
    assert not wanted(output="json").field_mask.paths
    asked = wanted(output="jsonpb", field_mask=("time,source.pod_name", "verdict"))
    assert list(asked.field_mask.paths) == ["time", "source.pod_name", "verdict"]
    with pytest.raises(Failed, match=r'construct field mask: invalid path "source.x" for message "flow.Flow"'):
        wanted(output="json", field_mask=("time,source.x",))


def test_every_field_that_is_asked_for_by_default_exists():
    for path in (*SHOWN_FIELDS, *POLICY_FIELDS):
        assert parse_mask([path]), path


def test_a_table_cannot_grow_for_ever():
    with pytest.raises(Failed, match="table output format is not compatible with follow mode"):
        wanted(output="tab", follow=True)


ONE, TWO = '{"source_label":["reserved:host"]}', '{"destination_port":["80"]}'


def test_raw_filters_are_objects_one_after_the_other():
    expected = [flow_pb2.FlowFilter(source_label=["reserved:host"]), flow_pb2.FlowFilter(destination_port=["80"])]
    for texts in ([ONE, TWO], [ONE + TWO], [f" {ONE}\n {TWO} "]):
        assert raw_filters("allowlist", texts) == expected
    assert raw_filters("allowlist", [" "]) == []


@pytest.mark.parametrize("text", ['{"invalid":["filters"]}', "{", "[1]", "7", '{"source_port":80}', f"{ONE}x"])
def test_a_raw_filter_that_is_none_is_quoted(text: str):
    with pytest.raises(Failed) as told:
        raw_filters("denylist", [text])
    assert told.value.message.startswith(f"invalid --denylist flag: failed to decode '{text}': ")


def test_raw_filters_follow_those_of_flags_and_come_from_the_environment_too():
    asked = wanted(
        {"HUBBLE_ALLOWLIST": f"{ONE} {TWO}", "HUBBLE_DENYLIST": TWO},
        filters=(("pod", "a/b"), ("not", "true"), ("from-port", "1")),
    )
    assert [one.source_pod or one.destination_pod or None for one in asked.whitelist] == [["a/b"], ["a/b"], None, None]
    assert asked.whitelist[2].source_label == ["reserved:host"]
    assert [list(one.source_port) + list(one.destination_port) for one in asked.blacklist] == [["1"], ["80"]]


def test_printed_filters_are_a_configuration_file_that_means_the_same(tmp_path: Path):
    asked = wanted(filters=(("label", "a in ('b','c')"), ("not", "true"), ("identity", "7"), ("type", "trace:to-host")))
    text = filters_yaml(asked)
    kind = '"event_type":[{"type":4,"match_sub_type":true,"sub_type":2}]'
    assert text.startswith(f"""allowlist:\n    - '{{{kind},"source_label":["a in (''b'',''c'')"]}}'\n""")
    assert set(yaml.safe_load(text)) == {"allowlist", "denylist"}
    file = tmp_path / "filters.yaml"
    file.write_text(text)
    again = wanted({"HUBBLE_CONFIG": str(file)})
    assert (again.whitelist, again.blacklist) == (asked.whitelist, asked.blacklist)
    assert filters_yaml(pb.GetFlowsRequest()) == "{}\n"
