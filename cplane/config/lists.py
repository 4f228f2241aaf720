"""Lists of objects, taken apart; and what a document is that is no object."""

from collections.abc import Iterator, Mapping
from typing import Final

from cplane.config.problems import Value, join

_SUFFIX: Final = "List"
_SELECTORS: Final = ("endpointSelector", "nodeSelector")
_SECTIONS: Final = ("ingress", "ingressDeny", "egress", "egressDeny")


def listed(value: Value, path: str = "") -> Iterator[tuple[str, Value]]:
    """The value itself, or what a `List` holds, lists within it included, each with its path: `items[2]`."""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or not kind.endswith(_SUFFIX):
        yield path, value
        return
    items = value.get("items")
    if items is None and kind == _SUFFIX:
        return  # what `kubectl get` may say of nothing
    if not isinstance(items, list):
        yield path, value
        return
    # Items of a list of one kind need not repeat it.
    own = {} if kind == _SUFFIX else {"kind": kind.removesuffix(_SUFFIX), "apiVersion": value.get("apiVersion")}
    inner = f"{path}.items" if path else "items"
    for index, item in enumerate(items):
        yield from listed({**own, **item} if isinstance(item, dict) else item, join(inner, index))


def other_form(value: Value) -> str:
    """What a document is that holds objects, or rules of policies, in another form than documents; empty: neither."""
    if _is_rule(value) or (isinstance(value, list) and any(map(_is_rule, value))):
        return (
            "rules without an object around them: write each under spec of a CiliumNetworkPolicy, with apiVersion, "
            "kind and metadata"
        )
    if isinstance(value, list) and any(isinstance(one, Mapping) and "kind" in one for one in value):
        return "an object is wanted, not a list of them: write `---` between them, or an object of kind List with items"
    return ""


def _is_rule(value: Value) -> bool:
    """Whether it is what policies have under `spec`; values for charts have a nodeSelector and no list of rules."""
    if not isinstance(value, Mapping) or "kind" in value:
        return False
    lists = any(isinstance(value.get(name), list) for name in _SECTIONS)
    return any(isinstance(value.get(name), Mapping) for name in _SELECTORS) and lists
