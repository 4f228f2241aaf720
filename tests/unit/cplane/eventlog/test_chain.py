"""The end of a log moves by events that belong there, and by nothing else."""

import pytest

from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import GENESIS, draft
from cplane.eventlog.errors import BadEvent, StreamConflict
from cplane.events.envelope import IPAM, NODE
from tests.support.log import fact, proposal


def extend(chain, *proposals):
    """The rows of the proposals, as a reader gets them."""
    rows = []
    for one in proposals:
        rows += chain.extend(draft(one), one.expected, 1_700_000_000_000_000_000)[0]
    return [tuple(value.encode() if isinstance(value, str) else value for value in row) for row in rows]


def follow(chain, rows):
    for row in rows:
        chain.check(row)
        chain.follow(row)


def state(chain):
    return chain.position, chain.digest, dict(chain.versions)


def test_what_one_chain_writes_another_follows_to_the_same_end():
    written, read = Chain(), Chain()
    follow(read, extend(written, proposal(0, fact(1), fact(2)), proposal(0, stream=IPAM), proposal(2)))
    assert state(read) == state(written)
    assert (written.position, written.versions) == (4, {NODE: 3, IPAM: 1})


def test_a_conflict_moves_nothing_not_even_for_the_streams_that_fitted():
    chain = Chain()
    extend(chain, proposal(0))
    before = state(chain)
    with pytest.raises(StreamConflict):
        extend(chain, proposal(1, fact(2), ipam=3))
    assert state(chain) == before


def test_a_copy_goes_its_own_way():
    chain = Chain()
    extend(chain, proposal(0))
    before = state(chain)
    extend(chain.copy(), proposal(1), proposal(0, stream=IPAM))
    assert state(chain) == before


@pytest.mark.parametrize(
    ("meddle", "position", "reason"),
    [
        (lambda rows: rows[:1] + rows[2:], 2, "the event is missing"),
        (lambda rows: rows[1:], 1, "the event is missing"),
        (lambda rows: [rows[0], rows[0], *rows[1:]], 1, "out of order"),
        (lambda rows: [rows[0], rows[2], rows[1]], 2, "the event is missing"),
        (lambda rows: [rows[0], (2, *rows[2][1:]), *rows[2:]], 2, "its digest does not fit"),
        (lambda rows: [rows[0], (*rows[1][:-1], rows[2][-1]), *rows[2:]], 2, "its digest does not fit"),
        (lambda rows: [(0, *rows[0][1:])], 0, "out of order"),
        (lambda rows: [(-5, *rows[0][1:])], -5, "out of order"),
    ],
)
def test_rows_that_do_not_belong_there_are_refused_and_move_nothing(meddle, position, reason):
    rows = extend(Chain(), proposal(0), proposal(1), proposal(2))
    chain = Chain()
    with pytest.raises(BadEvent, match=reason) as bad:
        follow(chain, meddle(rows))
    assert bad.value.position == position
    good = Chain()
    follow(good, rows[: chain.position])
    assert state(chain) == state(good)


def test_a_version_that_is_left_out_is_found_although_every_digest_fits():
    chain, other = Chain(), Chain()
    (first,) = extend(chain, proposal(0))
    follow(other, [first])
    chain.versions[NODE] = 2  # what a writer with a bug would hold
    (skipping,) = extend(chain, proposal(2))
    with pytest.raises(BadEvent, match="position 2: stream 'node' goes from version 1 to 3"):
        other.check(skipping)


def test_an_empty_chain_stands_before_the_first_event():
    assert state(Chain()) == (0, GENESIS, {})
