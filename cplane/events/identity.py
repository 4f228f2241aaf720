"""Facts about security identities."""

import msgspec


class IdentityAllocated(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`number` stands for `labels` (canonical order, `source:key=value`).

    A number in the local scope stands for a prefix outside the cluster, whose label is of source `cidr`.
    """

    number: int
    labels: tuple[str, ...]


class IdentityReleased(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Nothing uses `number` any more."""

    number: int
