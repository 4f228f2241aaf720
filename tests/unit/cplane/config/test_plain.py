"""Plain YAML: what is read line by line is read as libyaml would read it, and nothing that it would refuse."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.config.plain import read_plain
from cplane.config.problems import BadText, Bounds, Document
from cplane.config.yaml import read_yaml
from tests.support.effort import examples

BOUNDS = Bounds()

MANIFEST = """\
# written by hand
apiVersion: v1
kind: Service
metadata:
  annotations:
    note: |
      {"a": 1}

        indented
    other: |-
      text
  labels: {app: web, "tier": "front end", ports: [80, http, 10.0.0.1, fd00::1]}
  name: 'it''s'
spec:
  clusterIP: 10.96.0.1
  ports:
  - name: http
    port: 80
  -   name: "https\\n"
      port: 443
  externalIPs:
    - 192.0.2.1
    - yes
  selector:
status: {}
---
---
- a: x
- 1.5
- |
  last
"""


def both(text: str) -> tuple[Document, ...] | None:
    """What is read line by line, which libyaml reads alike."""
    found = read_plain(text, BOUNDS)
    if found is not None:
        assert repr(found) == repr(read_yaml(text, BOUNDS)), text
    return found


def test_what_people_and_programs_write_is_plain():
    found = both(MANIFEST)
    assert found is not None
    assert [one.number for one in found] == [1, 3]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a: &x 1\nb: *x",
            "a: !!str 1",
            "? a\n: b",
            "a: >\n  x",
            "a: x\n  y",
            "a: [1,\n  2]",
            "text",
            "...",
            "%YAML 1.1",
        ),
        *(
            "a: 1\na: 2",
            "a: {b: 1, b: 2}",
            "80: x",
            "yes: x",
            "a: {1: x}",
            "a: b: c",
            "a: [",
            "a: x\n b: y",
            "- a\nb: c",
        ),
        *(
            "a:\n\tb: 1",
            "a: 1\r\nb: 2",
            "a: \u2028",
            "a: \x07",
            "a: x # why",
            "- - a",
            "a: |2\n  x",
            "a: |\n  x",
            "a: |\n\nb: c",
        ),
        *(
            "a: " + "9" * 200,
            "x" * 1100 + ": 1",
            "a: " + "[" * 70 + "]" * 70,
            "\n".join(" " * n + "a:" for n in range(70)),
        ),
    ],
)
def test_what_is_not_plain_is_left_to_who_knows_all_of_yaml(text: str):
    assert read_plain(text, BOUNDS) is None


def test_what_may_be_too_much_is_left_to_who_counts():
    assert read_plain("a: [1, 2, 3]\n", Bounds(values=5)) is None
    assert read_plain("a: 1\n---\nb: 1\n", Bounds(documents=1)) is None
    assert read_plain("a: 1\n---\nb: 1\n", Bounds(documents=2)) is not None


PIECES = st.sampled_from(
    [
        *(
            "a:",
            "b:",
            "a: 1",
            "b: x",
            "c: x",
            "- a",
            "- a: 1",
            "- b:",
            "-",
            "---",
            "--- a",
            "...",
            "# c",
            "a: x # c",
            "",
            "  ",
        ),
        *(
            "'a': b",
            '"a": b',
            "a: 'x''y'",
            'a: "x\\n"',
            "a: |",
            "b: |-",
            "a: >",
            "- |",
            "text",
            "a: {b: c}",
            "- {a: b}",
        ),
        *(
            "a: [1, x]",
            "a: {b: [c, d]}",
            "a: []",
            "a: [",
            "]",
            "a: {b: }",
            "a: [fd00::1]",
            "a: ::1",
            "a: 10.0.0.1",
            "a: 1e5",
        ),
        *(
            "a: yes",
            "a: ~",
            "a: <<",
            "yes: 1",
            "1: 2",
            "<<: {a: 1}",
            "a: &x b",
            "a: *x",
            "a: x: y",
            "a: x:",
            "a: -",
            "a: - b",
        ),
        *(
            "a: -1",
            "a: x  ",
            "a:   ",
            "key-2/x.y: 1",
            "a: 12:30",
            "a: 2020-01-01",
            "é: a",
            "a: é",
            "a: {b:c}",
            "a: [a,b]",
        ),
        *("a: ''", "- - a", "-   b: c", "? a", "a: '#x'", "a: x#y", "a: [x #y]", "---: a", "a: ...", "a: {true: 1}"),
    ]
)
LINES = st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 2, 2, 4, 6]), PIECES), min_size=1, max_size=8)


@pytest.mark.slow
@given(lines=LINES, end=st.sampled_from(["\n", "", "\n\n"]))
@settings(max_examples=examples(1500), deadline=None)
def test_lines_in_any_order_are_read_as_libyaml_does_or_not_at_all(lines: list[tuple[int, str]], end: str):
    text = "\n".join(" " * indent + piece for indent, piece in lines) + end
    found = read_plain(text, BOUNDS)
    if found is None:
        return
    try:
        expected = read_yaml(text, BOUNDS)
    except BadText as bad:
        raise AssertionError(f"{text!r} was read as {found}") from bad
    assert repr(found) == repr(expected), text


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-9, 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "x", "10.0.0.1", "a b", "yes", "1", "a: b", "#x", "- x", "two\nlines\n", "\n x\n", "é", "12:30"]
    )
    | st.text(alphabet="ab1 :#-'\"\n{[|", max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdyn"), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.slow
@given(value=VALUES, flow=st.sampled_from([False, None, True]), style=st.sampled_from([None, None, "|", '"', "'"]))
@settings(max_examples=examples(600), deadline=None)
def test_what_a_program_writes_is_read_as_libyaml_does_or_not_at_all(
    value: object, flow: bool | None, style: str | None
):
    both(yaml.safe_dump(value, default_flow_style=flow, default_style=style, allow_unicode=True))


BEFORE_VALUES = st.sampled_from(["a: ", "b: ", "c: ", "- ", "- a: ", "-   b: ", "a:", "- ", "# ", "", "x%s: "])
WRITTEN = st.sampled_from(
    [
        *("x", "web-1", "10.0.0.1", "1.2", "1.2.3", "80", "-1", "yes", "~", "<<", "12:30", "2020-01-01", "é", "a b"),
        *('"q"', '"\\n"', "'s''t'", "{}", "[]", "[a, 1]", "{a: b}", "{a: {b: c}}", "|", "|-", ">", "&x y", "*x"),
        *("x # why", "#x", "x ", "a: b", "x:", "- y", "'", '"', "[", "%s", "§0", '"§0"', "9" * 200, "1e5", ".nan"),
        *("/a/b", "_x", "true", "O", "0x1f", "1_0", "0o7", "...", "---", "!t x", "`", "@"),
    ]
)


@st.composite
def alike(draw: st.DrawFn) -> str:
    """Documents that differ in their values, and here and there in more than these."""
    before = draw(st.lists(st.tuples(st.sampled_from([0, 0, 2, 2, 4]), BEFORE_VALUES), min_size=1, max_size=5))
    documents = []
    for _ in range(draw(st.integers(3, 5))):
        values = [draw(WRITTEN) if draw(st.integers(0, 9)) else "" for _ in before]
        lines = [f"{' ' * indent}{key}{value}" for (indent, key), value in zip(before, values, strict=True)]
        documents.append("".join(f"{line}\n" for line in lines))
    return "---\n".join(documents)


@pytest.mark.slow
@given(text=alike(), end=st.sampled_from(["", "---\n", "--- \n\n", "..."]))
@settings(max_examples=examples(3000), deadline=None)
def test_documents_that_are_alike_are_read_as_libyaml_does_or_not_at_all(text: str, end: str):
    found = read_plain(text + end, BOUNDS)
    if found is None:
        return
    try:
        expected = read_yaml(text + end, BOUNDS)
    except BadText as bad:
        raise AssertionError(f"{text + end!r} was read as {found}") from bad
    assert repr(found) == repr(expected), text


def test_documents_that_are_alike_have_their_own_values():
    pattern = "kind: K\nspec:\n  a: {}\n  b:\n  - {}\n  - x: {}\n    y:\n  c: {}\n"
    texts = [pattern.format(*values) for values in ((1, "x", "10.0.0.1", '"q"'), ("{}", "'s'", "web", "~"))] * 2
    found = both("---\n".join([*texts, pattern.format("{a: 1}", "[1, 2]", "no", 0x1F)]))
    assert found is not None
    assert [one.number for one in found] == [1, 2, 3, 4, 5]
    assert found[0].value == {
        "kind": "K",
        "spec": {"a": 1, "b": ["x", {"x": "10.0.0.1", "y": None}], "c": "q"},
    }
    assert found[2].value == found[0].value


def test_what_merges_mappings_is_text_in_a_list():
    found = both("- <<\n")
    assert found is not None
    assert found[0].value == ["<<"]


def test_documents_that_are_alike_are_as_deep_as_others():
    deep = "\n".join(f"{' ' * n}a:" for n in range(62)) + f"\n{' ' * 62}a: "
    assert both("---\n".join(f"{deep}{value}\n" for value in ("x", "y", "z"))) is not None
    for value in ("{}", "[]", "{a: b}"):
        assert read_plain("---\n".join(f"{deep}{one}\n" for one in ("x", "y", value)), BOUNDS) is None
