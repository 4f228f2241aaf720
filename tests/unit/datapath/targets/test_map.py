"""A table of typed entries over a map of bytes, however many there are."""

from datapath.maps.policy import KEY, SPEC, VALUE, PolicyEntry, PolicyKey
from datapath.maps.spread import Spread
from datapath.targets.map import MapTarget

ENTRY = PolicyEntry(deny=False, precedence=1, l4_bits=24)


class Written:
    """A map in memory that remembers how it was written."""

    spec = SPEC

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.sizes: list[int] = []

    def dump(self):
        return dict(self.rows)

    def batches(self):
        for key, value in self.rows.items():
            yield key, value, 1

    def update_batch(self, keys, values):
        self.sizes.append(len(keys))
        self.rows.update(zip(keys, values, strict=True))

    def update_joined(self, keys, values):
        self.update_batch(cut(keys, KEY.size), cut(values, VALUE.size))

    def delete_batch(self, keys):
        self.sizes.append(len(keys))
        return sum(self.rows.pop(key, None) is not None for key in keys)

    def delete_joined(self, keys):
        return self.delete_batch(cut(keys, KEY.size))


def cut(joined, size):
    return [joined[at : at + size] for at in range(0, len(joined), size)]


def keys(number):
    return [PolicyKey(300, index, 0, 6, 80, 24) for index in range(number)]


def test_many_rows_are_packed_a_few_thousand_at_a_time_and_written_in_order():
    over = Written()
    wanted = dict.fromkeys(keys(10_000), ENTRY)
    MapTarget(over, PolicyKey, PolicyEntry).upsert(wanted)
    assert list(over.rows) == [key.pack() for key in wanted]
    assert max(over.sizes) < 5000


def test_many_rows_are_deleted_a_few_thousand_at_a_time():
    over = Written()
    target = MapTarget(over, PolicyKey, PolicyEntry)
    target.upsert(dict.fromkeys(keys(10_000), ENTRY))
    over.sizes.clear()
    target.delete(keys(10_000))
    assert over.rows == {}
    assert max(over.sizes) < 5000


def test_nothing_is_written_for_no_rows():
    over = Written()
    MapTarget(over, PolicyKey, PolicyEntry).upsert({})
    assert over.sizes == []


def test_a_dump_is_what_was_written_and_equal_values_are_one():
    target = MapTarget(Written(), PolicyKey, PolicyEntry)
    deny = PolicyEntry(deny=True, precedence=2, l4_bits=24)
    wanted = {key: deny if key.identity % 2 else ENTRY._replace() for key in keys(100)}
    target.upsert(wanted)
    found = target.dump()
    assert found == wanted
    assert len({id(value) for value in found.values()}) == 2


def test_rows_that_policies_have_alike_are_written_and_deleted_for_each_of_them():
    over = Written()
    target = MapTarget(over, PolicyKey, PolicyEntry)
    rows = Spread(dict.fromkeys(keys(3000), ENTRY), {300: (300, 7, 70_000)})
    target.upsert(rows)
    assert list(over.rows) == [key.pack() for key in rows]
    assert len(over.rows) == 9000
    assert set(over.rows.values()) == {ENTRY.pack()}
    assert max(over.sizes) < 5000
    target.delete(rows)
    assert over.rows == {}


def test_a_comparison_finds_what_is_too_much_what_is_missing_and_what_is_otherwise():
    over = Written()
    target = MapTarget(over, PolicyKey, PolicyEntry)
    first, second, third, fourth = keys(4)
    other = ENTRY._replace(deny=True, cookie=7)
    plain = PolicyEntry(False, 0, 0)  # its bytes are zeros
    target.upsert({first: ENTRY, second: ENTRY, third: plain})
    assert target.compare({first: ENTRY, second: other, fourth: plain}) == (
        {second: ENTRY, third: plain},
        {second: other, fourth: plain},
    )
    assert target.compare({third: plain, second: ENTRY, first: ENTRY}) == ({}, {})
    assert target.compare({}) == (target.dump(), {})


def test_rows_that_policies_have_alike_are_compared_for_each_of_them():
    target = MapTarget(Written(), PolicyKey, PolicyEntry)
    rows = Spread(dict.fromkeys(keys(2), ENTRY), {300: (300, 7)})
    assert target.compare(rows) == ({}, dict(rows))
    target.upsert(rows)
    assert target.compare(rows) == ({}, {})
    assert target.compare(Spread({}, {})) == (dict(rows), {})
