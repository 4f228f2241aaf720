"""Numbers that are given, let go and given again."""

from collections.abc import Container


def next_free(last: int, low: int, high: int, *taken: Container[int]) -> int | None:
    """The next number after `last` from `low` to `high` that none of `taken` has, around the end; None: all are taken.

    Going on from the last one keeps a number that was just released out of use for as long as possible, so a record or
    a kernel entry that still names it cannot be read as what has the number next.
    """
    size = high - low + 1
    for step in range(1, size + 1):
        candidate = low + (last - low + step) % size
        for some in taken:
            if candidate in some:
                break
        else:
            return candidate
    return None
