"""Which labels make an identity: those that policies select by, without those that differ for every pod.

The patterns are Cilium's defaults. Each is matched at the beginning of the key.
"""

import re
from functools import lru_cache
from typing import Final

from cplane.domain.identity import Reserved
from cplane.domain.labels import RESERVED, LabelSet

_INCLUDED: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"io\.kubernetes\.pod\.namespace",
        r"io\.cilium\.k8s\.namespace\.labels",
        r"app\.kubernetes\.io",
        r"io\.cilium\.k8s\.policy\.cluster",
        r"io\.cilium\.k8s\.policy\.serviceaccount",
    )
)
_IGNORED: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"io\.kubernetes",
        r"kubernetes\.io",
        r"statefulset.kubernetes.io/pod-name",
        r"apps.kubernetes.io/pod-index",
        r"batch.kubernetes.io/job-completion-index",
        r"batch.kubernetes.io/controller-uid",
        r".*beta\.kubernetes\.io",
        r"k8s\.io",
        r"pod-template-generation",
        r"pod-template-hash",
        r"controller-revision-hash",
        r"controller-uid",
        r"annotation.*",
        r"etcd_node",
        r"topology\.kubernetes\.io",
    )
)


def identity_labels(labels: LabelSet) -> LabelSet:
    """The labels of the set that make its identity; `reserved:init` where none does.

    A label is kept unless an ignored pattern matches it, and also then where an included one matches more of the
    key than the shortest ignored match. Labels of source `reserved` are always kept.
    """
    kept = tuple(label for label in labels if label.source == RESERVED or _is_kept(label.key))
    if not kept:
        return Reserved.INIT.labels
    return labels if len(kept) == len(labels) else LabelSet(kept)


@lru_cache(maxsize=8192)
def _is_kept(key: str) -> bool:
    ignored = [match.end() for pattern in _IGNORED if (match := pattern.match(key))]
    if not ignored:
        return True
    included = [match.end() for pattern in _INCLUDED if (match := pattern.match(key))]
    return max(included, default=0) > min(ignored)
