"""Watching a policy table while a delta is written into it, row by row."""

from cplane.domain.policy.lookup import lookup
from cplane.domain.verdict import Direction
from datapath.maps.policy import AUDIT_PLANE


def steps(table, delta):
    """The table after each single write of the delta, in order; the last is the new table."""
    now = dict(table)
    for key, row in delta.upserts.items():
        now[key] = row
        yield now
    for key in delta.deletes:
        now.pop(key, None)
        yield now


def fate(table, policy_id, identity, direction, protocol, port):
    """What the kernel would do with the packet now: `passes`, `audits` (it passes, and is told), `proxied`, `drops`."""

    def found(number):
        return lookup(lambda key: table.get((number, *key)), identity, Direction(direction), protocol, port)

    decision = found(policy_id)
    if decision.reason is not None:
        return "drops"
    if decision.audited and found(policy_id | AUDIT_PLANE).reason is not None:
        return "audits"
    return "proxied" if decision.proxied else "passes"


def questions(*tables):
    """Packets that tell the tables apart: for every row its first and last port, from every peer that a row names."""
    found = set()
    peers = {key.identity for table in tables for key in table} | {77}
    for table in tables:
        for key in table:
            span = 1 << (24 - max(key.l4_bits, 8))
            for identity in peers if key.identity == 0 else (key.identity,):
                for protocol in (key.protocol,) if key.l4_bits else (6, 17):
                    for port in {key.port, min(key.port + span - 1, 65535)}:
                        found.add((key.policy_id & ~AUDIT_PLANE, identity, key.direction, protocol, port))
    return sorted(found)


FURTHER = {"drops": 0, "proxied": 1, "passes": 2, "audits": 2}


def assert_no_window(table, delta):
    """While the delta is written, no packet gets further, or less far, than it does before or after, nor is it told so.

    Only authentication may be asked for a moment too early, as what says that none is needed comes after it; and of
    what goes to a proxy a moment too late.
    """
    *_, new = (table, *steps(table, delta))
    new = dict(new)
    asked = questions(table, new)
    proving = any(row.auth_type for one in (table, new) for row in one.values())
    ends = {one: (fate(table, *one), fate(new, *one)) for one in asked}
    for now in steps(table, delta):
        for one in asked:
            got, far = fate(now, *one), [FURTHER[end] for end in ends[one]]
            said = f"{one}: {got}, before and after {ends[one]}"
            assert FURTHER[got] <= max(far) or (proving and got == "proxied"), said
            assert proving or FURTHER[got] >= min(far), said
            assert got != "audits" or "audits" in ends[one], said
