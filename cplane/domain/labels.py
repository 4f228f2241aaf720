"""Labels: where an identity begins.

Text form is `source:key=value`, always with the `=`; a set is ordered by key, then source,
and serialises as the concatenation of its labels, each followed by `;`. Source: facts of
Cilium's identity key, a stable interface.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cplane.errors import Rejected

ANY: Final = "any"
CIDR: Final = "cidr"
CIDRGROUP: Final = "cidrgroup"
CONTAINER: Final = "container"
FQDN: Final = "fqdn"
K8S: Final = "k8s"
RESERVED: Final = "reserved"
UNSPEC: Final = "unspec"

NAMESPACE_KEY: Final = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS_PREFIX: Final = "io.cilium.k8s.namespace.labels."
SERVICE_ACCOUNT_KEY: Final = "io.cilium.k8s.policy.serviceaccount"
CLUSTER_KEY: Final = "io.cilium.k8s.policy.cluster"

_FORBIDDEN: Final = re.compile(r"[\x00-\x1f;]")


class BadLabel(Rejected):
    """A label's text cannot be read."""

    code = "labels.bad"

    def __init__(self, text: str, reason: str) -> None:
        self.text, self.reason = text, reason

    def __str__(self) -> str:
        return f"label {self.text!r}: {self.reason}; write source:key=value, for example k8s:app=web"


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """One `source:key=value`; ordered by key, then source, then value."""

    key: str
    source: str = UNSPEC
    value: str = ""

    @classmethod
    def parse(cls, text: str, default_source: str = UNSPEC) -> "Label":
        """The label that `text` names; `key`, `key=value`, `source:key`, `$name` (reserved) are all accepted.

        Raises BadLabel when the key is empty or the text holds a control character or `;`.
        """
        if text.startswith("$"):
            text = f"{RESERVED}:{text[1:]}"
        head, _, value = text.partition("=")
        source, colon, key = head.partition(":")
        if not colon:
            source, key = default_source, head
        if not key:
            raise BadLabel(text, "the key is empty")
        if _FORBIDDEN.search(text):
            raise BadLabel(text, "control characters and ';' cannot stand in a label")
        return cls(key=key, source=source or default_source, value=value)

    def __str__(self) -> str:
        return f"{self.source}:{self.key}={self.value}"


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels with at most one value for each source and key, in canonical order."""

    labels: tuple[Label, ...] = ()
    _index: dict[tuple[str, str], str] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        unique = {(label.source, label.key): label for label in self.labels}
        object.__setattr__(self, "labels", tuple(sorted(unique.values())))
        object.__setattr__(self, "_index", {k: label.value for k, label in unique.items()})

    @classmethod
    def parse(cls, texts: Iterable[str], default_source: str = UNSPEC) -> "LabelSet":
        """The set of the labels in `texts`; a later one replaces an earlier one of the same source and key."""
        return cls(tuple(Label.parse(text, default_source) for text in texts))

    def get(self, source: str, key: str) -> str | None:
        """The value under `source:key`; with source `any`, that of the first source in order that has the key."""
        if source != ANY:
            return self._index.get((source, key))
        return next((label.value for label in self.labels if label.key == key), None)

    def values(self, source: str, key: str) -> tuple[str, ...]:
        """Every value under `key` that `source` selects: at most one, unless the source is `any`."""
        if source == ANY:
            return tuple(label.value for label in self.labels if label.key == key)
        value = self._index.get((source, key))
        return () if value is None else (value,)

    def serialise(self) -> str:
        """The identity key, for example `k8s:app=web;k8s:io.kubernetes.pod.namespace=shop;`."""
        return "".join(f"{label};" for label in self.labels)

    def texts(self) -> tuple[str, ...]:
        """Each label as text, in canonical order; the form that events carry."""
        return tuple(str(label) for label in self.labels)

    def union(self, other: "LabelSet") -> "LabelSet":
        """Both sets; where both have a source and key, the value of `other`."""
        return LabelSet(self.labels + other.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, label: object) -> bool:
        return isinstance(label, Label) and self._index.get((label.source, label.key)) == label.value
