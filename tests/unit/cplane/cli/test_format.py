"""How answers look."""

import json

import yaml

from cplane.cli.format import duration, instant, pairs, plain, printable, table, to_json, to_yaml
from cplane.pb.cplane.admin import v1 as pb


def test_a_table_is_aligned_and_has_no_trailing_spaces():
    assert table(("id", "name"), [(1, "a"), (100, "long name"), (2, "")]) == ("ID   NAME\n1    a\n100  long name\n2")
    assert table(("id",), []) == "ID"


def test_pairs_stand_below_each_other():
    assert pairs([("a", 1), ("longer", "x"), ("none", "")]) == "a:       1\nlonger:  x\nnone:"


def test_a_terminal_gets_nothing_to_act_upon():
    assert printable("a\x1b[31m\nb") == "a�[31m�b"
    assert "\x1b" not in table(("x",), [("\x1b]0;title\x07",)])


def test_a_message_becomes_plain_data_with_the_names_of_the_proto():
    message = pb.ApplyPolicyResponse(
        position=2**63,
        policies=[pb.AppliedPolicy(ref=pb.PolicyRef(kind="k", name="n"), outcome=pb.Outcome.CREATED)],
    )
    expected = {
        "position": 2**63,
        "policies": [{"ref": {"kind": "k", "namespace": "", "name": "n"}, "outcome": "created"}],
    }
    assert plain(message) == expected
    assert json.loads(to_json(message)) == expected
    assert yaml.safe_load(to_yaml(message)) == expected
    assert "\n" not in to_json(message, line=True)
    assert plain(pb.TailLogRequest(from_=3))["from"] == 3  # type: ignore[index]  # a message is a dict
    assert plain(pb.GetStatusResponse())["monitor"] is None  # type: ignore[index]  # as above


def test_yaml_keeps_the_order_and_the_letters():
    assert to_yaml({"b": "ä", "a": ["yes", "1"]}) == "b: ä\na:\n- 'yes'\n- '1'"
    assert to_yaml("x") == "x"


def test_times_and_durations_read_well():
    assert instant(0) == "1970-01-01T00:00:00.000Z"
    assert instant(1_767_268_800_123_999_999) == "2026-01-01T12:00:00.123Z"
    assert duration(0) == "0s"
    assert duration(61_500_000_000) == "1m1s"
    assert duration((86_400 + 5) * 1_000_000_000) == "1d0h0m5s"
