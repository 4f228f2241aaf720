"""Maglev tables are those of the original, spread evenly, and change little."""

import struct
from collections import Counter
from itertools import groupby

import pytest

from cplane.domain import maglev

SEED = maglev.parse_seed(maglev.SEED)

# Recorded from Cilium's own tests (pkg/maglev, M = 251): number of a backend, and how many entries in a row it has.
RECORDED = (
    "2(5),3(1),2(3),1(1),2(2),0(1),2(1),3(1),2(1),3(1),2(1),1(1),2(7),1(1),2(14),3(1),2(1),1(2),2(12),3(1),2(3),1(1),"
    "2(4),3(1),2(8),3(1),2(2),1(1),2(16),1(2),2(3),3(1),2(11),1(2),2(4),3(1),2(3),1(1),2(4),3(1),2(1),0(1),1(1),2(8),"
    "1(1),2(7),1(1),2(4),3(1),2(1),3(1),2(9),1(2),2(5),1(1),2(7),3(1),2(1),3(1),1(1),2(8),1(1),2(4),0(1),2(1),1(1),"
    "2(5),3(1),2(3),1(1),2(4),3(1),2(3),1(1),2(12),0(1),3(1),2(3),3(1),2(4),3(1),2(2),1(1),2(7)"
)


def table(backends: list[tuple[int, str, int]], size: int) -> tuple[int, ...]:
    """The table as numbers."""
    return struct.unpack(f"<{size}I", maglev.table(backends, size, SEED.murmur))


def backend(number: int, weight: int = 1) -> tuple[int, str, int]:
    """A backend with an address of its own."""
    return number, maglev.text_of(f"10.0.{number >> 8}.{number & 255}", 80, "TCP"), weight


def test_a_weighted_table_is_the_recorded_one() -> None:
    given = ((0, 1, 2), (1, 3, 13), (2, 4, 111), (3, 5, 10))
    found = table([(number, maglev.text_of(f"0.0.0.{n}", n, "TCP"), weight) for number, n, weight in given], 251)
    assert ",".join(f"{number}({len(list(same))})" for number, same in groupby(found)) == RECORDED


def test_shares_follow_weights_as_in_the_original() -> None:
    given = ((1, 1, 2), (2, 2, 13), (3, 3, 111), (4, 4, 10))
    found = table([(number, maglev.text_of(f"0.0.0.{n}", n, "TCP"), weight) for number, n, weight in given], 1021)
    assert Counter(found) == {1: 16, 2: 98, 3: 832, 4: 75}


@pytest.mark.parametrize("size", [251, 1021, 16381])
def test_every_backend_has_its_share(size: int) -> None:
    shares = Counter(table([backend(number) for number in range(1, 8)], size))
    assert max(shares.values()) - min(shares.values()) <= 1


def test_the_order_in_which_backends_are_given_does_not_matter() -> None:
    given = [backend(number) for number in range(1, 20)]
    assert table(given, 251) == table(given[::-1], 251)


@pytest.mark.parametrize("gone", [1, 50, 100])
def test_when_one_of_a_hundred_leaves_hardly_anybody_else_is_moved(gone: int) -> None:
    given = [backend(number) for number in range(1, 101)]
    before = table(given, 16381)
    after = table([one for one in given if one[0] != gone], 16381)
    moved = sum(was not in {now, gone} for was, now in zip(before, after, strict=True))
    # The original's tables of this size move 1.0 to 1.5 % of the others; ours are the same ones.
    assert moved <= 0.015 * 16381


def test_no_backends_are_no_table() -> None:
    assert maglev.table([], 251, SEED.murmur) == b""


def test_seeds_are_read_strictly() -> None:
    assert (SEED.murmur, SEED.jhash0, SEED.jhash1) == (0x24B7EF82, 0x71DCDA46, 0x92505688)
    for text in ("", "AAAA", "not base64!"):
        with pytest.raises(ValueError, match=r"base64|padding|seed"):
            maglev.parse_seed(text)
