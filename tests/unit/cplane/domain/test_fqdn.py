"""DNS names and the patterns that select them."""

import pytest

from cplane.domain import fqdn
from cplane.domain.policy import regex

LONG = "a" * 63


def selects(pattern, name):
    return regex.matches(fqdn.expression_of(pattern), fqdn.canonical(name))


@pytest.mark.parametrize(
    ("pattern", "selected", "others"),
    [
        ("*.cilium.io", ["a.cilium.io", ".cilium.io", "A.Cilium.IO."], ["cilium.io", "a.b.cilium.io", "a.cilium.ioo"]),
        ("*cilium.io", ["cilium.io", "subcilium.io"], ["sub.cilium.io"]),
        ("sub*.cilium.io", ["sub.cilium.io", "subdomain.cilium.io"], ["a.cilium.io", "sub.a.cilium.io"]),
        ("a*b.example", ["ab.example", "a-x_b.example"], ["a.b.example", "ab.examples"]),
        ("a.*", ["a.example"], ["a.b.example", "a"]),
        ("*.*", ["a.b", "a.example"], ["a", "a.b.c"]),
        ("**.example", ["a.example", "b.a.example", "d.c.b.a.example"], ["example", "aexample"]),
        ("**.a*.example", ["b.a.example", "c.b.abc.example"], ["a.example"]),
        ("a**.example", ["a.example", "abc.example"], ["a.b.example"]),
        ("*", ["a", "a.example", "a.b.c.d.example", "."], ["a..b", "ä"]),
        ("**", ["a", "a.b.example", "."], []),
        ("*.", ["a", "a.b", "."], []),
        (".", ["."], ["a"]),
        ("a.example", ["a.example", "a.example."], ["aXexample", "b.a.example"]),
        ("a.example.", ["a.example"], ["a.example.b"]),
        (f"{LONG}.*", [f"{LONG}.b"], [f"{LONG}a.b"]),
    ],
)
def test_a_pattern_selects_whole_names(pattern, selected, others):
    assert [name for name in selected if not selects(pattern, name)] == []
    assert [name for name in others if selects(pattern, name)] == []


@pytest.mark.parametrize("text", ["a", "a.b", "a.b.", "_dns.a-b.example", "A.B", "a" * 255])
def test_what_a_name_may_be(text):
    assert fqdn.name_problem(text) == ""


@pytest.mark.parametrize("text", ["", ".", "a..b", ".a", "a b", "a/b", "ä", "a" * 256, "*.a", "a\n"])
def test_what_is_no_name_has_a_problem(text):
    assert fqdn.name_problem(text)


def test_a_name_with_a_star_is_perhaps_a_pattern():
    assert "matchPattern" in fqdn.name_problem("*.a")
    assert "matchPattern" not in fqdn.name_problem("a/b")


@pytest.mark.parametrize("text", ["*", "**.a", "a.*.b", "a-b_c.D", "." * 255])
def test_what_a_pattern_may_be(text):
    assert fqdn.pattern_problem(text) == ""


@pytest.mark.parametrize("text", ["", "a?", "[a]", "a b", "ä*", "*" * 256])
def test_what_is_no_pattern_has_a_problem(text):
    assert fqdn.pattern_problem(text)


def test_a_name_is_compared_in_lower_case_and_with_its_dot():
    assert fqdn.canonical("A.b") == fqdn.canonical("a.B.") == "a.b."
