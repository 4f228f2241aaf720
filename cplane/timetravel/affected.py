"""Whose verdicts a change can change: endpoints that obey other rows of the policy table afterwards."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from cplane.domain.identity import NumericIdentity, Reserved, is_local
from cplane.domain.verdict import Direction
from cplane.projections.delta import Delta
from cplane.projections.rows import prefix_of
from cplane.projections.tables import IPCACHE, POLICY, Tables
from datapath.maps.ipcache import IpcacheInfo, IpcacheKey
from datapath.maps.policy import AUDIT_PLANE, PolicyEntry, PolicyKey

_WORLDS: Final = frozenset({Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6})
_ANYBODY: Final = 0
_NOTHING: Final[Delta[IpcacheKey, IpcacheInfo]] = Delta.nothing()

_Rows = dict[PolicyKey, PolicyEntry]


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint whose policy has other rows in a direction (`ingress` or `egress`).

    `added`, `removed` and `changed` count rows, each of which is about a peer and a port, or about any of them. Where
    addresses have become those of another prefix, or of names, what holds for them is counted as their rows.
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


def affected(deltas: Mapping[str, Delta], tables: Tables, pod_of: Callable[[int], str]) -> tuple[Affected, ...]:  # type: ignore[type-arg]  # each table has types of its own
    """The endpoints by number and direction; `tables` have the deltas already, `pod_of` names an endpoint."""
    policy: Delta[PolicyKey, PolicyEntry] = deltas.get(POLICY) or Delta.nothing()
    counts: dict[tuple[int, int], list[int]] = {}
    for key, old, new in (*_rows(policy), *_moved(policy, deltas.get(IPCACHE, _NOTHING), tables)):
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
        for (policy_id, direction), (added, removed, changed) in counts.items()
        for endpoint in tables.policies.obeying(policy_id)
    ]
    return tuple(sorted(found, key=lambda one: (one.endpoint, one.direction)))


_Changed = tuple[PolicyKey, PolicyEntry | None, PolicyEntry | None]


def _rows(delta: Delta[PolicyKey, PolicyEntry]) -> Iterator[_Changed]:
    for key in dict.fromkeys((*delta.before, *delta.after)):
        yield key, delta.before.get(key), delta.after.get(key)


def _moved(
    policy: Delta[PolicyKey, PolicyEntry], ipcache: Delta[IpcacheKey, IpcacheInfo], tables: Tables
) -> Iterator[_Changed]:
    """Rows that are others for addresses only because these are behind another prefix now: none came, went or changed.

    What is excepted from a prefix has an identity that no row is about.
    """
    moves = tuple(dict.fromkeys(_moves(ipcache, tables)))
    if not moves:
        return
    after = _about(tables, {number for move in moves for number in move})
    before = {number: dict(rows) for number, rows in after.items()}
    touched = set()
    for key, old, _ in _rows(policy):
        if key.identity in before:
            touched.add(key)
            before[key.identity].pop(key, None)
            if old is not None:
                before[key.identity][key] = old
    for was, now in moves:
        had, has = ({key._replace(identity=_ANYBODY): key for key in rows} for rows in (before[was], after[now]))
        for place in dict.fromkeys((*had, *has)):
            first, then = had.get(place), has.get(place)
            if first not in touched and then not in touched:
                old, new = (
                    None if key is None else rows[key] for key, rows in ((first, before[was]), (then, after[now]))
                )
                yield place, old, new


def _moves(delta: Delta[IpcacheKey, IpcacheInfo], tables: Tables) -> Iterator[tuple[int, int]]:
    """Who had addresses, and who has them now: prefixes, names, or what is left of the world."""
    now: Mapping[IpcacheKey, IpcacheInfo] = tables.table(IPCACHE)  # type: ignore[assignment]  # its own types
    for key in dict.fromkeys((*delta.before, *delta.after)):
        was = delta.before[key].identity if key in delta.before else _around(key, now, delta)
        will = now[key].identity if key in now else _around(key, now)
        if was != will and was is not None and will is not None and all(map(_is_outside, (was, will))):
            yield was, will


def _around(
    key: IpcacheKey, rows: Mapping[IpcacheKey, IpcacheInfo], later: Delta[IpcacheKey, IpcacheInfo] = _NOTHING
) -> int | None:
    """Who has the longest prefix around this one, before a later change; None: nobody has."""
    prefix = prefix_of(key)
    for bits in reversed(range(key.prefix_bits)):
        wider = prefix.supernet(new_prefix=bits).network_address.packed.ljust(len(key.addr), b"\0")
        one = key._replace(addr=wider, prefix_bits=bits)
        found = later.before.get(one) if one in later.before or one in later.after else rows.get(one)
        if found is not None:
            return found.identity
    return None


def _is_outside(number: int) -> bool:
    return number in _WORLDS or is_local(NumericIdentity(number))


def _about(tables: Tables, numbers: set[int]) -> dict[int, _Rows]:
    """The rows about each of these identities, of all who obey a policy."""
    found: dict[int, _Rows] = {number: {} for number in numbers}
    rows, states = tables.policies.table(), tables.policies.repository.states()
    named = {
        state: any(state.names(number, direction) for number in numbers for direction in Direction)
        for state in set(states.values())
    }
    for policy, state in states.items():
        for key in state.told if named[state] else ():
            if key.identity in numbers:
                full = PolicyKey(policy, *key)
                found[key.identity][full] = rows[full]
    return found
