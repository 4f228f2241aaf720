"""CEL expressions select the flows for which they are true, in bounded time."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.hubble.filters import BadFilter, compile_filters
from cplane.hubble.filters.cel import EXPRESSIONS_MAX, FUNCTIONS, TEXT_MAX, Expression, Expressions
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from tests.support.effort import examples
from tests.support.flows import START_NS, records, rows_matching, store_of
from tests.support.observing import StillClock

Filter = flow_pb2.FlowFilter
ROWS = records(
    {},
    {"type": 1, "subtype": 133, "protocol": 17, "sport": 5353, "dport": 53},
    {"dport": 443, "tcp_flags": 18, "flags": 12, "time_ns": 10**9},
    {"src": "", "dst": "", "src_lxc": 0, "dst_lxc": 0, "src_identity": 2, "protocol": 0, "type": 5, "verdict": -133},
)


def wanting(*texts: str, **fields: Any) -> Filter:
    return Filter(experimental=Filter.Experimental(cel_expression=texts), **fields)


def chosen(store: FlowStore, *whitelist: Filter, blacklist: tuple[Filter, ...] = ()) -> list[int]:
    predicate = compile_filters(whitelist, blacklist, store)
    assert predicate is not None
    return rows_matching(predicate(store.ring.span(store.ring.oldest, store.ring.written)).tolist())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", [0, 1, 2, 3]),
        ("_flow.verdict == Verdict.DROPPED", [1, 3]),
        ("_flow.verdict == flow.Verdict.DROPPED || _flow.l4.TCP.destination_port == 443", [1, 2, 3]),
        ("_flow.l4.TCP.destination_port == 80u", [0]),
        ("_flow.l4.TCP.destination_port != 80u", [1, 2, 3]),
        ("_flow.l4.UDP.destination_port in [53u, 54u]", [1]),
        ("_flow.l4.UDP.destination_port < 1024 && has(_flow.l4.UDP)", [1]),
        ("has(_flow.l4.TCP)", [0, 2]),
        ("!has( _flow . l4 . TCP )", [1, 3]),
        ("has(_flow.l4.TCP.flags.ACK)", [2]),
        ("has(_flow.source.pod_name) && _flow.source.pod_name.startsWith('web-')", [0, 1, 2]),
        ("_flow.source.labels.exists(l, l == 'k8s:app=web')", [0, 1, 2]),
        ("'reserved:world' in _flow.source.labels", [3]),
        ("_flow.source.workloads.exists(w, w.kind == 'Deployment')", [0, 1, 2]),
        ("_flow.source.pod_name.matches('^web-[0-9a-f]+$')", [0, 1, 2]),
        ("_flow.is_reply == null", [1, 3]),
        ("_flow.is_reply == true", [2]),
        ("_flow.time > timestamp('2024-07-24T10:02:11.5Z')", [2]),
        ("_flow.drop_reason_desc == DropReason.POLICY_DENIED", [1, 3]),
        ("_flow.destination.namespace == 'shop' && size(_flow.destination.labels) > 1", [0, 1, 2, 3]),
        ("_flow.IP.source == '10.244.0.11'", [0, 1, 2]),
        ("_flow.source.labels[0] == 'k8s:app=web'", [0, 1, 2]),
        ("_flow.source.labels[99] == 'x'", []),
        ("_flow.verdict / (_flow.verdict - 1) == 2", [1, 3]),
        ("_flow.node_name == 'default/node1'", [0, 1, 2, 3]),
        ("_flow.ethernet.source == 'has(_flow.nothing)'", []),
    ],
)
def test_an_expression_selects_what_it_is_true_for(text: str, expected: list[int]) -> None:
    assert chosen(store_of(ROWS), wanting(text)) == expected


def test_a_uuid_selects_its_flow() -> None:
    store = store_of(ROWS)
    assert chosen(store, wanting(f"_flow.uuid == '{store.ids.text(2)}'")) == [2]


def test_one_of_several_expressions_is_enough_and_the_other_fields_must_fit_too() -> None:
    store = store_of(ROWS)
    either = wanting("_flow.l4.TCP.destination_port == 443", "_flow.l4.UDP.destination_port == 53")
    assert chosen(store, either) == [1, 2]
    assert chosen(store, wanting("true", destination_port=["53"])) == [1]
    assert chosen(store, blacklist=(wanting("_flow.verdict == Verdict.DROPPED"),)) == [0, 2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("_flow.verdict +", "error compiling CEL expression"),
        ("", "error compiling CEL expression"),
        ("_flow.nothing == 1", "undefined field 'nothing'"),
        ("_flow.source.nothing == 1", "undefined field 'nothing'"),
        ("_flow.verdict.nothing == 1", "undefined field 'nothing'"),
        ("_flow.labels.exists(x, x == '')", "undefined field 'labels'"),
        ("verdict == 1", "undeclared reference to 'verdict'"),
        ("size(_flow.source.labels) > 0 || shell('x')", "undeclared reference to 'shell'"),
        ("_flow.verdict", "a CEL expression must be a bool here, and this is a int"),
        ("_flow.source.pod_name < 3", "No such overload"),
        ("_flow == _flow", "_flow is named as a whole"),
        ("_flow.source.labels.exists(x, has(x.a))", "write has(_flow.field)"),
        ("1 == 1" + " " * TEXT_MAX, "is too long"),
        ("[1].all(a, [1].all(b, [1].all(c, true)))", "it has 3 of all, exists, map and filter"),
        (r"_flow.source.pod_name.matches('\\w{1000}')", "neither '{' nor an escape by number"),
        (r"_flow.source.pod_name.matches('a\x7b9}')", "neither '{' nor an escape by number"),
        ("_flow.source.labels.all(l, l.matches('" + "x" * 200 + "'))", "a loop has at most 200 characters"),
        ("_flow.source.pod_name.matches('(')", "not a valid regex"),
        ("(" * 400 + "true" + ")" * 400, "error compiling CEL expression"),
    ],
)
def test_what_cannot_be_evaluated_or_not_in_time_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadFilter) as caught:
        compile_filters([wanting(text)], [], store_of(ROWS))
    assert caught.value.field == "experimental.cel_expression"
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_there_are_only_so_many_expressions_in_a_filter() -> None:
    with pytest.raises(BadFilter, match="at most 8 are taken"):
        compile_filters([wanting(*["true"] * (EXPRESSIONS_MAX + 1))], [], store_of(ROWS))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_function_that_is_let_through_exists(name: str) -> None:
    arguments = {
        **dict.fromkeys(["contains", "startsWith", "endsWith", "matches"], "'a'.{}('a')"),
        **dict.fromkeys(["timestamp"], "{}('2024-07-24T10:02:11Z')"),
        **dict.fromkeys(["duration"], "{}('1s')"),
        **dict.fromkeys(["bytes", "size"], "{}('1')"),
    }
    call = arguments.get(name, "timestamp('2024-07-24T10:02:11Z').{}()" if name.startswith("get") else "{}(1)")
    Expression(f"{call.format(name)} != null")


class CountingClock:
    """Each look at it takes so many milliseconds."""

    def __init__(self, milliseconds: float) -> None:
        self.now, self.step, self.looks = 0, int(milliseconds * 1e6), 0

    def __call__(self) -> int:
        self.now += self.step
        self.looks += 1
        return self.now


def judged(texts: list[str], batch: np.ndarray, clock: CountingClock) -> int:
    """How many evaluations it took to judge the batch."""
    store = store_of(batch, capacity=1 << 12)
    span = store.ring.span(0, len(batch))
    Expressions(texts, store, clock)(span, np.arange(len(batch)))
    return clock.looks // 2


@pytest.mark.slow
def test_flows_that_differ_only_in_what_nobody_looks_at_are_judged_once() -> None:
    batch = records(*({"sport": port, "time_ns": port} for port in range(1000)))
    assert judged(["_flow.source.pod_name == 'x'"], batch, CountingClock(0)) == 1
    assert judged(["_flow.l4.TCP.source_port == 7u"], batch, CountingClock(0)) == 1000
    assert judged(["_flow.source.pod_name == 'x'", "_flow.verdict == 9"], batch, CountingClock(0)) == 2


def test_only_rows_that_the_other_fields_let_through_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = Expressions.__call__

    def counting(self: Expressions, span: Any, rows: Any) -> Any:
        seen.extend(rows.tolist())
        return real(self, span, rows)

    monkeypatch.setattr(Expressions, "__call__", counting)
    assert chosen(store_of(ROWS), wanting("true", verdict=[flow_pb2.DROPPED])) == [1, 3]
    assert seen == [1, 3]


@pytest.mark.slow
def test_an_expression_that_is_slow_for_every_flow_is_ended() -> None:
    batch = records(*({"sport": port} for port in range(1000)))
    assert judged(["_flow.l4.TCP.source_port == 7u"], batch, CountingClock(0.5)) == 1000
    clock = CountingClock(2)
    with pytest.raises(BadFilter, match=r"takes 2\.0 ms for each flow; make it simpler"):
        judged(["_flow.l4.TCP.source_port == 7u"], batch, clock)
    assert clock.looks < 300, "it was ended once its free time was spent"
    store = store_of(batch, capacity=1 << 12)
    own = Expressions(["_flow.l4.TCP.source_port == 7u"], store, CountingClock(2), trusted=True)
    assert own(store.ring.span(0, 1000), np.arange(1000)).sum() == 1, "whoever runs the agent may take as long"


def test_numbers_that_mean_something_else_are_judged_again() -> None:
    store = store_of(records({}))
    predicate = compile_filters([wanting("_flow.source.pod_name == 'web-7f9'")], [], store)
    assert predicate is not None
    assert predicate(store.ring.span(0, 1)).all()
    web = int(store.ring.span(0, 1)["src_meta"][0])
    store.endpoints.collect([])
    store.endpoints._values[web] = store.endpoints[0]
    assert not predicate(store.ring.span(0, 1)).any()


def test_a_still_clock_ends_nothing() -> None:
    store = store_of(ROWS)
    found = Expressions(["true"], store, StillClock(START_NS).monotonic_ns)(store.ring.span(0, 4), np.arange(4))
    assert found.all()


WORDS = st.sampled_from(
    [
        *("_flow", "_flow.verdict", "_flow.l4.TCP.source_port", "_flow.source.labels", "_flow.time", "has("),
        *("has(_flow.l4.UDP)", ".exists(x,", ".map(x,", ".filter(y,", "x", "y", "(", ")", "[", "]", "{", "}"),
        *(",", ".", ":", "?", "!", "-", "+", "*", "/", "%", "==", "!=", "<", ">=", "&&", "||", "in"),
        *("'a'", '"b"', r"r'\'", r"'\''", r"b'\xff'", "'1h'", "'.*'", "'('", "//", "\n"),
        *("1", "0", "-1", "9223372036854775807", "-9223372036854775808", "1u", "1.5e308", "true", "false", "null"),
        *("size(", "string(", "int(", "uint(", "timestamp(", "duration(", "double(", ".matches(", ".getHours("),
        *("Verdict.DROPPED", "flow.Verdict.X", "optional.of(", "type(", "dyn("),
    ]
)


@pytest.mark.slow
@settings(max_examples=examples(300), deadline=None)
@given(text=st.one_of(st.lists(WORDS, max_size=16).map("".join), st.lists(WORDS, max_size=16).map(" ".join), st.text()))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    store = store_of(ROWS)
    try:
        expressions = Expressions([text], store)
    except BadFilter:
        return
    assert expressions(store.ring.span(0, 4), np.arange(4)).dtype == np.bool_
