"""Whose verdicts a change can change: endpoints that obey other rows of the policy table afterwards."""

from collections.abc import Callable

import msgspec

from cplane.domain.verdict import Direction
from cplane.projections.delta import Delta
from cplane.projections.policymap import PolicyMapProjection
from datapath.maps.policy import AUDIT_PLANE, PolicyEntry, PolicyKey


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint whose policy has other rows in a direction (`ingress` or `egress`).

    `added`, `removed` and `changed` count rows, each of which is about a peer and a port, or about any of them.
    """

    endpoint: int
    pod: str
    direction: str
    added: int
    removed: int
    changed: int

    @property
    def counts(self) -> str:
        """The rows as they are shown: `+2 -1 ~3`, without those that there are none of."""
        signs = (("+", self.added), ("-", self.removed), ("~", self.changed))
        return " ".join(f"{sign}{count}" for sign, count in signs if count)


def affected(
    delta: Delta[PolicyKey, PolicyEntry] | None, policies: PolicyMapProjection, pod_of: Callable[[int], str]
) -> tuple[Affected, ...]:
    """The endpoints by number and direction; `policies` have the delta already, `pod_of` names an endpoint."""
    if delta is None:
        return ()
    counts: dict[tuple[int, int], list[int]] = {}
    for key in dict.fromkeys((*delta.before, *delta.after)):
        old, new = delta.before.get(key), delta.after.get(key)
        if old is not None and new is not None and old._replace(cookie=new.cookie) == new:
            continue  # it is as it was, and somebody else's
        which = 0 if old is None else 1 if new is None else 2
        counts.setdefault((key.policy_id & ~AUDIT_PLANE, key.direction), [0, 0, 0])[which] += 1
    found = [
        Affected(
            endpoint=endpoint,
            pod=pod_of(endpoint),
            direction=Direction(direction).name.lower(),
            added=added,
            removed=removed,
            changed=changed,
        )
        for (policy, direction), (added, removed, changed) in counts.items()
        for endpoint in policies.obeying(policy)
    ]
    return tuple(sorted(found, key=lambda one: (one.endpoint, one.direction)))
