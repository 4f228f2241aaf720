"""Strict YAML: what is read, what is refused, and how it is told."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.config.problems import BadText, Bounds, Document, Problem, join
from cplane.config.text import read
from tests.support.effort import examples


def errors(text: str | bytes, bounds: Bounds | None = None) -> list[str]:
    with pytest.raises(BadText) as told:
        read(text.encode() if isinstance(text, str) else text, bounds or Bounds())
    return [str(one) for one in told.value.errors]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: [1, -2, 0x1f, 010, 0b11, 1_000]", {"a": [1, -2, 31, 8, 3, 1000]}),
        ("a: [1.5, 6.02e+23]", {"a": [1.5, 6.02e23]}),
        ("a: [yes, No, on, off, true, FALSE]", {"a": [True, False, True, False, True, False]}),
        ("a: [~, null, ]", {"a": [None, None]}),
        ("a:", {"a": None}),
        ("a: 2020-01-01", {"a": "2020-01-01"}),
        ("a: 12:30", {"a": "12:30"}),
        ("a: 1:20:30", {"a": "1:20:30"}),
        ("a: '80'", {"a": "80"}),
        ("a: !!str 80", {"a": "80"}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 1}\nd: {<<: *x, c: 2}", {"a": {"b": 1, "c": 1}, "d": {"b": 1, "c": 2}}),
        (
            "a: &x {b: 1}\ny: &y {b: 2, c: 3}\nd: {<<: [*x, *y]}",
            {"a": {"b": 1}, "y": {"b": 2, "c": 3}, "d": {"b": 1, "c": 3}},
        ),
        ("\ufeffa: 1", {"a": 1}),
        ('{"a":\t[1,\n\t2]}', {"a": [1, 2]}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ("{a: 1}", {"a": 1}),
        ("text", "text"),
    ],
)
def test_a_value_is_what_json_would_have(text: str, value: object):
    assert read(text.encode()) == (Document(1, value),)


@pytest.mark.parametrize("text", ["", "---\n---\n", "# nothing\n", "---\n# nothing\n...\n", "null"])
def test_a_text_without_content_has_no_documents(text: str):
    assert read(text.encode()) == ()


def test_documents_without_content_count_but_are_left_out():
    assert read(b"a: 1\n---\n# nothing\n---\nb: 2\n") == (Document(1, {"a": 1}), Document(3, {"b": 2}))
    assert read(b'{"a": 1}\n---\n{"b": 2}') == (Document(1, {"a": 1}), Document(2, {"b": 2}))
    assert read(b'{"a": 1} null\n[2]') == (Document(1, {"a": 1}), Document(3, [2]))


@pytest.mark.parametrize("between", ["", "\n", "\r\n\t ", "\n\n"])
def test_values_of_json_may_follow_one_another(between: str):
    written = [{"a": 1}, {"b": [2, {}]}, [], {"a": "}{"}]
    text = between.join(json.dumps(one) for one in written) + between
    assert read(text.encode()) == tuple(Document(n, one) for n, one in enumerate(written, 1))


def test_what_is_wrong_with_one_of_several_values_of_json_is_told_with_its_number():
    assert errors('{"a": 1}\n{"a": 1, "a": 2}{"b": {"c": 1, "c": 1}}') == [
        "document 2, a: the key stands there twice",
        "document 3, b.c: the key stands there twice",
    ]
    assert errors("{}" * 3, Bounds(documents=2)) == ["document 3: more than 2 documents: split the text"]
    assert errors('{"a":[1]}' * 3, Bounds(values=7)) == [
        "document 3, a: more than 7 values, aliases counted as often as they are used"
    ]
    assert errors('{"a": 1} {"a": }')[0].startswith("document 2, line 1 column 10")
    assert errors("{}" + "[" * 9999) == ["document 2: nested deeper than 64 levels"]


@pytest.mark.parametrize(
    ("text", "line", "mark"),
    [
        ("{{- if .Values.on }}\na: 1\n{{- end }}\n", 1, "{{- if .Values.on }}"),
        ("# {{ .Values.note }}\na: {{ .Values.a }}\n", 2, "{{ .Values.a }}"),
        ("a:\n  {{- toYaml .Values.a | nindent 2 }}\n", 2, "{{- toYaml .Values.a | nindent 2 }}"),
        ("a:\n{% for b in c %}\n- {{ b }}\n{% endfor %}\n", 2, "{% for b in c %}"),
    ],
)
def test_a_template_that_nobody_has_rendered_is_told_to_be_one(text: str, line: int, mark: str):
    told = f"line {line}: {mark} looks like part of a template: render it first, for example with `helm template`"
    assert errors(text)[0] == told


def test_a_template_within_a_value_is_a_value():
    text = "a: |\n  {{ .Alert }}\nb: '{{ .Name }}'\n"
    assert read(text.encode()) == (Document(1, {"a": "{{ .Alert }}\n", "b": "{{ .Name }}"}),)
    assert errors(f"{text}a: 1") == ["document 1, a: the key stands there twice"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: {c: 1, c: 2}\nd: [{e: 1, e: 2}]\na: 2", ["b.c", "d[0].e", "a"]),
        ('{"a": 1, "b": {"c": 1, "c": 2}, "a": 2}', ["b.c", "a"]),
    ],
)
def test_every_duplicate_key_is_told_with_its_path(text: str, told: list[str] | str):
    assert errors(text) == [f"document 1, {path}: the key stands there twice" for path in told]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("80: x", "document 1: the key 80 is not text: write it in quotes"),
        ("a: {yes: x}", "document 1, a: the key true is not text: write it in quotes"),
        ("? [1]\n: 2", "document 1: a key that is a collection is not text: write it in quotes"),
        (
            "a: !!python/object:os.system x",
            "document 1, a: the tag 'tag:yaml.org,2002:python/object:os.system' is not allowed",
        ),
        ("a: !secret x", "document 1, a: the tag '!secret' is not allowed"),
        ("a: .nan", "document 1, a: .nan is not a number that JSON has"),
        ("a: -.inf", "document 1, a: -.inf is not a number that JSON has"),
        ('{"a": 1e999}', "document 1, a: the number is too large"),
        ("a: " + "9" * 5000, "document 1, a: the number is too large"),
        ('{"a": ' + "9" * 5000 + "}", "document 1, a: the number is too large"),
        ('{"a": "\\ud800"}', "document 1, a: the text holds half of a surrogate pair"),
        ("a: *b", "document 1, a: the alias *b stands for nothing that is complete before it"),
        ("a: &a [*a]", "document 1, a[0]: the alias *a stands for nothing that is complete before it"),
        ("a: {<<: 1}", "document 1, a: `<<` takes a mapping or a list of mappings"),
        ("a: b: c", "document 1, line 1 column 5: mapping values are not allowed in this context"),
        (
            "a: 1\n---\nb: [",
            "document 2, line 4 column 1: while parsing a flow node: did not find expected node content",
        ),
    ],
)
def test_what_json_does_not_have_is_refused_with_its_place(text: str, told: list[str] | str):
    assert errors(text) == [told]


def test_a_tab_as_indentation_is_told_in_words():
    (told,) = errors("a:\n\tb: 1")
    assert told.startswith("document 1, line 2 column 1: ")
    assert "indent with spaces" in told


@pytest.mark.parametrize("data", [b"a: \xff", "a: 1".encode("utf-16"), b"\xc3"])
def test_a_text_that_is_not_utf8_is_refused(data: bytes):
    (told,) = errors(data)
    assert told.startswith("not UTF-8: byte ")


def test_control_characters_are_refused():
    (told,) = errors(b"a: \x00")
    assert "control characters are not allowed" in told


def test_a_text_over_the_limit_is_refused_before_it_is_read():
    assert errors(b"x" * 11, Bounds(bytes=10)) == ["11 bytes are too many, the limit is 10: split it"]


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "{" * 200_000, '{"a":' * 100_000, "[" * 65 + "]" * 65, "- " * 65 + "x"]
)
def test_a_text_that_nests_too_deep_is_refused(text: str):
    assert errors(text)[-1].endswith("nested deeper than 64 levels")


def test_an_alias_counts_its_depth_where_it_is_used():
    text = "a: &a [[[1]]]\nb: [[[[*a]]]]"
    read(text.encode(), Bounds(depth=9))
    assert errors(text, Bounds(depth=8)) == ["document 1, b[0][0][0][0]: nested deeper than 8 levels"]


def test_aliases_that_expand_to_billions_are_refused_quickly():
    bomb = "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    (told,) = errors(bomb)
    assert "more than 1000000 values, aliases counted as often as they are used" in told


def test_too_many_documents_are_refused():
    assert errors("a\n---\n" * 4, Bounds(documents=3)) == ["document 4: more than 3 documents: split the text"]


def test_too_many_errors_end_the_reading():
    told = errors("a: 1\n" * 5000)
    assert len(told) == 1001
    assert told[-1].endswith("too many errors; the rest was not read")


@pytest.mark.parametrize(
    ("path", "step", "joined"),
    [
        ("", "a", "a"),
        ("a", "b", "a.b"),
        ("a", 0, "a[0]"),
        ("", 3, "[3]"),
        ("a", "app.io/x", 'a."app.io/x"'),
        ("a", "", 'a.""'),
    ],
)
def test_paths_read_like_the_text(path: str, step: str | int, joined: str):
    assert join(path, step) == joined


def test_a_problem_says_only_what_is_known():
    assert str(Problem(0, "", "m")) == "m"
    assert str(Problem(2, "", "m")) == "document 2: m"
    assert str(Problem(2, "a.b", "m")) == "document 2, a.b: m"


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), values, max_size=4))
def test_whatever_json_says_is_read_as_it_is(value: object):
    assert read(json.dumps(value).encode()) == (Document(1, value),)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes):
    with suppress(BadText):
        documents = read(data)
        json.dumps([one.value for one in documents], allow_nan=False).encode()


@given(st.text(alphabet="ab:-[]{},&*<!|>'\"\n 1?#%@", max_size=80))
def test_any_punctuation_is_read_or_refused(text: str):
    with suppress(BadText):
        documents = read(text.encode())
        json.dumps([one.value for one in documents], allow_nan=False).encode()


LONG = "x" * 200_000


@pytest.mark.parametrize(
    "text",
    [
        f"a: *{LONG}",
        f"a: !{LONG} 1",
        f"a: !{LONG} [1]",
        f"a: !!bool {LONG}",
        f"a: !!float {LONG}",
        f"a: !!int {LONG}",
        f"a: {'1' * 200_000}.",
        f"a: {'1' * 200_000}",
        f'? "{LONG}"\n: [!x 1]',
        f'{{"{LONG}": {{"a": 1, "a": 2}}}}',
        f'{{"{LONG}": 1, "{LONG}": 2}}',
        f"? [{LONG}]\n: 1",
    ],
)
def test_a_problem_quotes_only_the_beginning_of_what_is_long(text: str):
    assert 0 < sum(map(len, errors(text))) < 400


def test_many_problems_under_a_long_key_are_told_in_little():
    twice = '{"a": 1, "a": 2}'
    text = f'{{"{LONG}": [{", ".join([twice] * 900)}]}}'
    assert sum(map(len, errors(text))) < 900 * 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "a: " + "b" * examples(9_000_000),
        "a: " + "1_" * examples(1_000_000),
        "a: " + "1:" * examples(1_000_000),
        "#" * examples(9_000_000),
        "a: |\n" + "  x\n" * examples(2_000_000),
        "- 1\n" * examples(50_000),
        "a: &a x\nb: [" + "*a," * examples(100_000) + "]",
        "a: &a {x: 1}\nb: {<<: [" + "*a," * examples(100_000) + "]}",
        "".join(f"a{i}: &b{i} 1\n" for i in range(examples(30_000))),
        "[" * examples(9_000_000),
        '{"a": "' + "x" * examples(2_000_000) + '"}',
        '{"a": [' + "1," * examples(100_000),
    ],
)
def test_a_text_of_many_megabytes_is_read_or_refused_in_seconds(text: str):
    started = time.process_time()
    with suppress(BadText):
        read(text.encode())
    assert time.process_time() - started < 10


def test_an_alias_of_a_merge_counts_as_often_as_it_is_used():
    text = "a0: &a0 {k: v}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}], k{i}: v}}\n" for i in range(1, 12)
    )
    assert "more than 1000000 values" in errors(text)[-1]
