"""What of an expression is plain text."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cplane.domain.policy import regex
from cplane.xds.expressions import literal, prefix


@pytest.mark.parametrize(
    ("expression", "text"),
    [("", ""), ("/a-b_1", "/a-b_1"), (r"a\.b\*", "a.b*"), ("a.b", None), ("a|b", None), (r"\d", None), ("é", None)],
)
def test_plain_text_describes_itself(expression, text):
    assert literal(expression) == text


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("/api/v1/.*", "/api/v1/"),
        (r"/a\.b/[0-9]+", "/a.b/"),
        ("abc*", "ab"),
        ("ab?", "a"),
        ("ab{2}", "a"),
        ("a|b", ""),
        ("ab(c|d)", "ab"),
        ("ab(c)|d", ""),
        ("ab[|]c", "ab"),
        ("ab[]|]c", "ab"),
        ("ab[^]|]c", "ab"),
        ("ab[[:alpha:]|]c", "ab"),
        (r"ab\|c.", "ab|c"),
        (r"ab.\|c", "ab"),
        ("(?i)ab", ""),
        ("ab(?i)c", "ab"),
        ("^ab", ""),
        (r"ab\Q|\E", ""),
        ("", ""),
    ],
)
def test_what_stands_before_anything_else_is_what_texts_begin_with(expression, text):
    assert prefix(expression) == text


PIECES = st.sampled_from(
    [*"ab|()[]^*+?.{}1,\\$-:", "(?i)", "(?:", r"\.", r"\|", r"\Q", r"\E", "[:alpha:]", r"\]", "a{0}"]
)


@given(st.lists(PIECES, max_size=8).map("".join), st.text("ab|.[]()AB1^", max_size=6))
@example("a{0}b", "b")
def test_nothing_is_described_that_begins_otherwise(expression, text):
    assume(not regex.problem(expression))
    if regex.matches(expression, text):
        assert text.startswith(prefix(expression))
        assert literal(expression) in {None, text}
