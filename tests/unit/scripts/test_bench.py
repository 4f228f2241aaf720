"""The parts of scripts/bench that only compute: what is told of a number, and what a probe's fates say."""

import importlib
import json

import pytest

from tests.support.tree import ROOT


@pytest.fixture
def bench(monkeypatch):
    """A module of scripts/bench.d by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench.d"))
    return importlib.import_module


@pytest.fixture
def report(bench):
    return bench("report")


@pytest.fixture
def fates(bench):
    return bench("fates")


def test_the_suite_of_a_result_stands_before_the_dot(report):
    assert report.Result(name="net.cni_add_ms", value=1.0, unit="ms").suite == "net"


def test_a_ratio_is_the_value_by_that_of_the_peer(report):
    assert report.Result(name="a.b", value=3.0, unit="s", peer="other", peer_value=2.0).ratio == 1.5


def test_without_a_peer_there_is_no_ratio(report):
    assert report.Result(name="a.b", value=3.0, unit="s").ratio is None


def test_the_ratio_of_rounds_is_their_median_and_that_of_the_peer_is_one(report):
    found = report.ratio_result("a.b", [0.5, 3.0, 0.75], "other")
    assert (found.value, found.peer_value, found.ratio) == (0.75, 1.0, 0.75)


def test_json_is_a_list_of_objects_with_the_same_seven_fields(report):
    results = [
        report.Result(name="net.a", value=3.0, unit="ms", peer="other", peer_value=2.0, aim=report.at_most(1)),
        report.Result(name="agent.b", value=4.0, unit="s"),
    ]
    assert json.loads(report.to_json(results)) == [
        {
            "suite": "net",
            "name": "net.a",
            "value": 3.0,
            "unit": "ms",
            "peer": "other",
            "peer_value": 2.0,
            "ratio": 1.5,
        },
        {
            "suite": "agent",
            "name": "agent.b",
            "value": 4.0,
            "unit": "s",
            "peer": None,
            "peer_value": None,
            "ratio": None,
        },
    ]


def test_a_table_has_a_line_for_each_result_and_columns_that_stand_under_one_another(report):
    results = [
        report.Result(name="net.a", value=1234.5, unit="ms", peer="other", peer_value=2.0, aim=report.at_least(2)),
        report.Result(name="agent.long_name", value=0.123, unit="s"),
    ]
    head, first, second = report.table(results).splitlines()
    assert first.split() == ["net.a", "1,234", "ms", "other", "2.00", "617.25", "✓", "≥", "2"]
    assert second.split() == ["agent.long_name", "0.12", "s"]
    assert head.index("unit") == first.index("ms") == second.index(" s") + 1


def test_aims_that_are_missed_are_named_and_those_at_the_limit_are_held(report):
    results = [
        report.Result(name="a.held", value=2.0, unit="s", aim=report.at_most(2)),
        report.Result(name="a.missed", value=2.1, unit="s", aim=report.at_most(2)),
        report.Result(name="b.missed", value=0.9, unit="ratio", aim=report.at_least(1)),
        report.Result(name="b.free", value=9.9, unit="s"),
    ]
    assert report.missed(results) == ["a.missed", "b.missed"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12"), (1.0, "1.00"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")]
)
def test_a_number_has_the_digits_that_count(report, value, text):
    assert report.number(value) == text


def test_a_spread_tells_the_median_and_what_most_values_lie_between(report):
    assert report.spread([float(n) for n in range(11)], "ms") == "median 5.00 ms, 10–90 %: 1.00–9.00 (11)"
    assert report.spread([4.0], "ms") == "4.00 ms"


def runs(fates, *lines):
    return [fates.Run.parse(line) for line in lines]


def test_a_latency_lasts_from_the_request_to_the_first_datagram_of_another_fate(fates):
    changes = [fates.Change(1_000_000, arriving=False), fates.Change(9_000_000, arriving=True)]
    told = runs(fates, "arrived 0 2000000 3", "lost 3000000 9500000 6", "arrived 10000000 20000000 9")
    assert fates.latencies(changes, told) == ([2.0], [1.0])


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ((), "did not get through"),
        (("lost 0 2000000 3",), "did not get through"),
        (("arrived 0 9000000 9",), "1 changes of policy had 0 effects: 9 arrived"),
        (
            ("arrived 0 100 1", "lost 2000000 3000000 2", "arrived 4000000 5000000 2"),
            "1 changes of policy had 2 effects",
        ),
        (("arrived 0 100 1", "lost 500000 3000000 2"), "at another time"),
    ],
)
def test_fates_that_the_changes_do_not_explain_are_no_measurement(bench, fates, lines, why):
    with pytest.raises(bench("report").WrongError, match=why):
        fates.latencies([fates.Change(1_000_000, arriving=False)], runs(fates, *lines))
