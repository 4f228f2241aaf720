"""Facts about policies; the policy revision is the version of their stream."""

import msgspec


class PolicyUpserted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The policy `kind namespace/name` reads as `document` now: the user's object as canonical JSON text.

    `namespace` is empty for cluster-wide kinds.
    """

    kind: str
    namespace: str
    name: str
    document: str


class PolicyDeleted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The policy does not exist any more."""

    kind: str
    namespace: str
    name: str
