"""From a text to its objects."""

import pytest

from cplane.config.documents import BadDocuments, read_objects

ALREADY = "already: keep one of them"


def policy(name: str, namespace: str = "") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    return f"{{kind: CiliumNetworkPolicy, metadata: {{name: {name}{where}}}}}\n"


def errors(text: str) -> list[str]:
    with pytest.raises(BadDocuments) as told:
        read_objects(text.encode())
    return [str(one) for one in told.value.errors]


def test_an_object_becomes_canonical_json_whatever_order_and_form_it_had():
    yaml = read_objects("kind: K\nmetadata: {name: ä, b: 1}\na: [1, true]\n".encode())
    json = read_objects(b'{"a":[1,true],"metadata":{"b":1,"name":"\\u00e4"},"kind":"K"}')
    assert yaml[0].text == json[0].text == '{"a":[1,true],"kind":"K","metadata":{"b":1,"name":"ä"}}'


def test_lists_are_taken_apart_and_places_are_remembered():
    text = f"{policy('a')}---\n---\nkind: List\nitems:\n- {policy('b')}- {policy('c')}---\n{policy('d')}"
    found = read_objects(text.encode())
    assert [(one.name()[2], one.document, one.path) for one in found] == [
        ("a", 1, ""),
        ("b", 3, "items[0]"),
        ("c", 3, "items[1]"),
        ("d", 4, ""),
    ]
    assert str(found[2].problem("spec.x", "no")) == "document 3, items[1].spec.x: no"
    assert str(found[2].problem("", "no")) == "document 3, items[1]: no"
    assert str(found[0].problem("spec.x", "no")) == "document 1, spec.x: no"


def test_a_list_may_hold_lists_and_one_of_a_kind_says_the_kind_of_its_items_once():
    inner = "{kind: CiliumNetworkPolicyList, apiVersion: cilium.io/v2, items: [{metadata: {name: a}}]}"
    (found,) = read_objects(f"{{kind: List, items: [{inner}, {{kind: List, items: []}}]}}".encode())
    assert (found.name(), found.path) == (("CiliumNetworkPolicy", "", "a"), "items[0].items[0]")
    assert found.value["apiVersion"] == "cilium.io/v2"


def test_a_kind_that_only_ends_like_a_list_is_an_object():
    (found,) = read_objects(b"{kind: AllowList, spec: {}, metadata: {name: a}}")
    assert found.name() == ("AllowList", "", "a")


RULE = "{endpointSelector: {}, ingress: [{}]}"
LISTED = "an object is wanted, not a list of them: write `---` between them, or an object of kind List with items"
ALONE = "rules without an object around them: write each under spec of a CiliumNetworkPolicy, with apiVersion, "


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["the text has no object"]),
        (f"[{RULE}]", [f"document 1: {ALONE}kind and metadata"]),
        (
            f"[{policy('a').strip()}]",
            [f"document 1: {LISTED}"],
        ),
        ("kind: List\nitems:", ["the text has no object"]),
        ("---\n# nothing\n", ["the text has no object"]),
        ("kind: List\nitems: []", ["the text has no object"]),
        ("text", ["document 1: an object (a mapping with kind and metadata) is wanted"]),
        ("[1]", ["document 1: an object (a mapping with kind and metadata) is wanted"]),
        ("kind: List\nitems: [1]", ["document 1, items[0]: an object (a mapping with kind and metadata) is wanted"]),
        (
            f"{policy('a')}---\n{policy('a')}---\n{policy('b', 'x')}---\n{policy('b', 'x')}",
            [
                "document 2, metadata.name: CiliumNetworkPolicy a stands in document 1 already: keep one of them",
                "document 4, metadata.name: CiliumNetworkPolicy x/b stands in document 3 already: keep one of them",
            ],
        ),
        (
            f"kind: List\nitems:\n- {policy('a')}- {policy('a')}",
            [f"document 1, items[1].metadata.name: CiliumNetworkPolicy a stands in document 1, items[0] {ALREADY}"],
        ),
    ],
)
def test_what_is_no_object_is_refused_with_its_place(text: str, told: list[str]):
    assert errors(text) == told


def test_the_same_name_in_two_namespaces_or_kinds_is_two_objects():
    text = f"{policy('a', 'x')}---\n{policy('a', 'y')}---\n{{kind: Other, metadata: {{name: a, namespace: x}}}}"
    assert len(read_objects(text.encode())) == 3
