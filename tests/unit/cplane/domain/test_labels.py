"""Labels: their text, their order, their lookup."""

import pytest

from cplane.domain.labels import BadLabel, Label, LabelSet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k8s:app=web", Label("app", "k8s", "web")),
        ("app=web", Label("app", "unspec", "web")),
        ("app", Label("app")),
        ("k8s:app", Label("app", "k8s")),
        (":app=x", Label("app", "unspec", "x")),
        ("$host", Label("host", "reserved")),
        ("k8s:a=b=c:d", Label("a", "k8s", "b=c:d")),
        ("a=b:c", Label("a", "unspec", "b:c")),
    ],
)
def test_a_label_is_read_from_its_text(text, expected):
    assert Label.parse(text) == expected


@pytest.mark.parametrize("text", ["", "=x", "k8s:", "k8s:=x", "$", "a;b", "a=b\n", "k8s:a=x;y"])
def test_what_is_no_label_is_refused(text):
    with pytest.raises(BadLabel, match="write source:key=value"):
        Label.parse(text)


def test_a_set_has_one_value_for_each_source_and_key_the_later():
    assert LabelSet.parse(["k8s:a=1", "k8s:a=2", "x:a=3"]).texts() == ("k8s:a=2", "x:a=3")


def test_a_set_is_ordered_by_key_and_serialises_with_every_equals_sign():
    labels = LabelSet.parse(["k8s:b=1", "reserved:host", "k8s:a=2"])
    assert labels.serialise() == "k8s:a=2;k8s:b=1;reserved:host=;"
    assert labels == LabelSet.parse(reversed(labels.texts()))
    assert len(labels) == 3


def test_values_of_any_source_are_all_of_them():
    labels = LabelSet.parse(["k8s:a=1", "container:a=2"])
    assert labels.values("any", "a") == ("2", "1")
    assert labels.values("k8s", "a") == ("1",)
    assert labels.values("k8s", "b") == ()
    assert labels.get("any", "b") is None
    assert labels.get("k8s", "a") == "1"


def test_a_union_takes_the_value_of_the_other():
    assert LabelSet.parse(["k:a=1", "k:b=1"]).union(LabelSet.parse(["k:a=2"])).texts() == ("k:a=2", "k:b=1")


def test_a_set_contains_a_label_only_with_its_value():
    labels = LabelSet.parse(["k8s:a=1"])
    assert Label("a", "k8s", "1") in labels
    assert Label("a", "k8s", "2") not in labels
    assert "k8s:a=1" not in labels
