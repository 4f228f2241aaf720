"""Watching a policy table while a delta is written into it, row by row."""

from cplane.domain.policy.lookup import lookup
from cplane.domain.verdict import Direction


def steps(table, delta):
    """The table after each single write of the delta, in order; the last is the new table."""
    now = dict(table)
    for key, row in delta.upserts.items():
        now[key] = row
        yield now
    for key in delta.deletes:
        now.pop(key, None)
        yield now


def allowed(table, policy_id, identity, direction, protocol, port):
    """What the kernel would do with the packet now."""
    return lookup(lambda key: table.get((policy_id, *key)), identity, Direction(direction), protocol, port).allowed


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
                        found.add((key.policy_id, identity, key.direction, protocol, port))
    return sorted(found)


def assert_no_window(table, delta):
    """While the delta is written, nothing passes or drops that does so neither before nor after."""
    *_, new = (table, *steps(table, delta))
    new = dict(new)
    asked = questions(table, new)
    before = {one: allowed(table, *one) for one in asked}
    after = {one: allowed(new, *one) for one in asked}
    for now in steps(table, delta):
        for one in asked:
            got = allowed(now, *one)
            assert got in (before[one], after[one]), f"{one}: {got}, before and after {before[one]}"
