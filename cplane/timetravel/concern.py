"""Which policies can be about somebody, told from what they select without reading their rules.

To read a policy takes a hundred times longer, and most of a node's policies are not about the two whom a question is
about. The answer is never wrongly no: `matchLabels` are met by labels with just these values, whatever their keys mean.
Only the namespace, which a policy says itself, may stand there in vain.
"""

from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from cplane.domain.labels import K8S, NAMESPACE_KEY
from cplane.domain.policy.rule import CCNP, CNP, KNP
from cplane.events.policy import PolicyUpserted

_KINDS = frozenset({CNP, CCNP, KNP})
_OVERWRITTEN = f"{K8S}:{NAMESPACE_KEY}"  # by the policy's own (`peers.subject_selector`)


class _Selector(msgspec.Struct):
    matchLabels: dict[str, Any] | None = None  # noqa: N815  # as policies write it  # Any: other values select nothing


class _Spec(msgspec.Struct):
    endpointSelector: _Selector | None = None  # noqa: N815
    podSelector: _Selector | None = None  # noqa: N815

    def needs(self) -> Iterator[dict[str, Any]]:  # Any: see _Selector
        for one in (self.endpointSelector, self.podSelector):
            if one is not None and one.matchLabels:
                yield one.matchLabels


class _Document(msgspec.Struct):
    spec: _Spec | None = None
    specs: list[_Spec] | None = None


_DECODER = msgspec.json.Decoder(_Document)


def may_concern(event: PolicyUpserted, values: Collection[str]) -> bool:
    """Whether the policy may be about somebody whose labels have only these values. Groups concern everybody."""
    if event.kind not in _KINDS:
        return True
    try:
        document = _DECODER.decode(event.document)
    except msgspec.MsgspecError:
        return True
    specs = [*([document.spec] if document.spec is not None else []), *(document.specs or [])]
    # A NetworkPolicy without a spec is about all pods of its namespace.
    return not specs or any(_selects(spec, values) for spec in specs)


def _selects(spec: _Spec, values: Collection[str]) -> bool:
    needs = [value for labels in spec.needs() for key, value in labels.items() if key != _OVERWRITTEN]
    return all(not isinstance(value, str) or value in values for value in needs)
