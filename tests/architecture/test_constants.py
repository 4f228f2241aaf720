"""Numbers that C and Python share are the same numbers."""

import re
from collections.abc import Iterable

import pytest

from cplane.domain import maglev
from cplane.domain.service import MAGLEV_SEED, MAGLEV_SIZE
from cplane.domain.verdict import Direction, DropReason, MatchType
from cplane.pb.flow import flow_pb2
from datapath.kernel import load
from datapath.kernel.compile import source_root
from datapath.kernel.programs import PROGRAMS
from datapath.maps import catalog, conntrack, endpoints, ipcache, lb, marks, metrics, policy
from datapath.maps.conntrack import CtFlags
from datapath.maps.metrics import MetricsDirection
from datapath.maps.state import MonitorFlags, StateSlot
from datapath.notify.records import RecordFlags, RecordType, SocketPoint, TracePoint, TraceReason
from datapath.source.defines import DEFAULTS

_TEXT = "\n".join(path.read_text() for path in sorted(source_root().rglob("*.[ch]")))
_DEFINED = {
    name: int(value, 0) for name, value in re.findall(r"^#define (\w+) (0x[0-9a-f]+|\d+)\b", _TEXT, re.MULTILINE)
}


def named(prefix: str, *, without: Iterable[str] = ()) -> dict[str, int]:
    """Every C constant with the prefix, which is cut off."""
    cut = len(prefix)
    return {name[cut:]: value for name, value in _DEFINED.items() if name.startswith(prefix) and name not in without}


@pytest.mark.parametrize(
    ("prefix", "enum"),
    [
        ("DIRECTION_", Direction),
        ("MATCH_", MatchType),
        ("STATE_", StateSlot),
        ("METRICS_", MetricsDirection),
    ],
)
def test_an_enumeration_is_the_same_in_both(prefix: str, enum: type[Direction]) -> None:
    assert named(prefix, without=["METRICS_SLOTS"]) == {member.name: member.value for member in enum}


def test_record_types_flags_and_trace_numbers_are_the_same() -> None:
    verdict = {"VERDICT": RecordType.POLICY_VERDICT}
    flags = {flag.name: flag.value for flag in RecordFlags}
    for name, number in named("RECORD_").items():
        assert number == (verdict.get(name) or flags.get(name) or RecordType[name]), name
    points = {member.name: member.value for member in TracePoint}
    reasons = {member.name: member.value for member in TraceReason}
    for name, number in named("TRACE_").items():
        assert number == (points if name.startswith(("TO_", "FROM_")) else reasons)[name], name
    for name, number in named("XLATE_").items():
        assert SocketPoint[name] == number, name


def test_debug_records_have_the_numbers_of_the_original() -> None:
    numbers = {f"DBG_{name}": number for name, number in named("DBG_").items()}
    assert len(numbers) > 15
    assert numbers == {name: flow_pb2.DebugEventType.Value(name) for name in numbers}


def test_marks_are_the_same() -> None:
    names = ("MASK", "TO_PROXY", "FROM_INGRESS_PROXY", "FROM_EGRESS_PROXY", "PORT_SHIFT")
    assert named("MARK_") == {name: getattr(marks, name) for name in names}
    assert [marks.from_proxy(one) for one in Direction] == [marks.FROM_INGRESS_PROXY, marks.FROM_EGRESS_PROXY]


def test_monitor_and_conntrack_flags_are_the_same() -> None:
    assert named("MONITOR_") == {flag.name: flag.value for flag in MonitorFlags if flag is not MonitorFlags.ALL}
    assert named("CT_", without=["CT_FLAVOUR_PORTS", "CT_FLAVOUR_LOW_ASKS", "CT_FLAVOUR_HIGH_ASKS"]) == {
        flag.name: flag.value for flag in CtFlags
    }
    assert named("CT_FLAVOUR_") == {
        "PORTS": conntrack.FLAVOUR_PORTS,
        "LOW_ASKS": conntrack.FLAVOUR_LOW_ASKS,
        "HIGH_ASKS": conntrack.FLAVOUR_HIGH_ASKS,
    }


def test_every_drop_reason_that_programs_raise_has_a_name_in_python() -> None:
    numbers = named("REASON_")
    known = {member.value for member in DropReason}
    assert {name: number for name, number in numbers.items() if number not in known} == {}


def test_every_map_has_its_slot() -> None:
    assert sorted(named("SLOT_").values()) == sorted(spec.slot for spec in catalog.SPECS)
    assert _DEFINED["MAP_SENTINEL"] == load.MAP_SENTINEL
    assert _DEFINED["METRICS_SLOTS"] == metrics.SLOTS


def test_key_geometry_is_the_same() -> None:
    assert _DEFINED["POLICY_STATIC_BITS"] == policy.STATIC_BITS
    assert _DEFINED["POLICY_L4_BITS"] == policy.FULL_L4_BITS
    assert named("POLICY_FLAG_") == {
        "DENY": policy.FLAG_DENY,
        "AUDITED": policy.FLAG_AUDITED,
        "AUTH_SAID": policy.FLAG_AUTH_SAID,
    }
    assert _DEFINED["POLICY_AUDIT_PLANE"] == policy.AUDIT_PLANE
    assert named("ENDPOINT_FLAG_") == {"HOST": endpoints.FLAG_HOST, "AUDIT": endpoints.FLAG_AUDIT}
    assert (_DEFINED["FAMILY_V4"], _DEFINED["FAMILY_V6"]) == (ipcache.FAMILY_V4, ipcache.FAMILY_V6)
    v4 = ipcache.IpcacheKey(ipcache.FAMILY_V4, bytes(16), 0).pack()
    assert int.from_bytes(v4[:4], "little") == _DEFINED["IPCACHE_STATIC_BITS"]


def test_numbers_of_services_are_the_same() -> None:
    assert named("LB_KIND_") == {kind.name: kind.value for kind in lb.LbKind}
    assert named("LB_FLAG_") == {flag.name: flag.value for flag in lb.LbFlags}
    assert named("LB_FLOW_") == {flag.name: flag.value for flag in lb.FlowFlags}
    assert _DEFINED["LB_BACKEND_LOCAL"] == lb.BACKEND_LOCAL
    assert _DEFINED["LB_CHUNK"] == lb.CHUNK
    assert _DEFINED["LB_BENEATH"] == lb.BENEATH
    assert _DEFINED["LB_PEERS"] == lb.PEERS_MAX
    assert named("LB_PEER_") == {"SENT": lb.PEER_SENT, "CONNECTED": lb.PEER_CONNECTED}
    assert _DEFINED["LB_RANGE_STATIC_BITS"] == lb.RANGE_STATIC_BITS
    assert named("LB_NETDEV_") == {flag.name: flag.value for flag in lb.NetdevFlags}
    seed = maglev.parse_seed(MAGLEV_SEED)
    assert (DEFAULTS["maglev_size"], DEFAULTS["maglev_seed4"], DEFAULTS["maglev_seed6"]) == (
        MAGLEV_SIZE,
        seed.jhash0,
        seed.jhash1,
    )


def test_settings_have_the_same_names_and_defaults() -> None:
    assert named("CONFIG_") == DEFAULTS
    assert set(re.findall(r"CONFIG\((\w+)\)", _TEXT.replace("CONFIG(name)", ""))) == DEFAULTS.keys()


def test_every_program_has_its_place_on_a_device() -> None:
    entries = re.findall(r"^PROGRAM int (\w+)\(", _TEXT, re.MULTILINE)
    assert sorted(entries) == sorted(PROGRAMS)


def test_every_source_names_both_licences() -> None:
    for path in sorted(source_root().rglob("*.[ch]")):
        assert "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause" in path.read_text().splitlines()[0], path
