"""A table of typed entries over a map of bytes, however many there are."""

from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.targets.map import MapTarget

ENTRY = PolicyEntry(deny=False, precedence=1, l4_bits=24)


class Written:
    """A map in memory that remembers how it was written."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.batches: list[int] = []

    def dump(self):
        return dict(self.rows)

    def update_batch(self, keys, values):
        self.batches.append(len(keys))
        self.rows.update(zip(keys, values, strict=True))

    def delete_batch(self, keys):
        self.batches.append(len(keys))
        return sum(self.rows.pop(key, None) is not None for key in keys)


def keys(number):
    return [PolicyKey(300, index, 0, 6, 80, 24) for index in range(number)]


def test_many_rows_are_packed_a_few_thousand_at_a_time_and_written_in_order():
    over = Written()
    wanted = dict.fromkeys(keys(10_000), ENTRY)
    MapTarget(over, PolicyKey, PolicyEntry).upsert(wanted)
    assert list(over.rows) == [key.pack() for key in wanted]
    assert max(over.batches) < 5000


def test_many_rows_are_deleted_a_few_thousand_at_a_time():
    over = Written()
    target = MapTarget(over, PolicyKey, PolicyEntry)
    target.upsert(dict.fromkeys(keys(10_000), ENTRY))
    over.batches.clear()
    target.delete(keys(10_000))
    assert over.rows == {}
    assert max(over.batches) < 5000


def test_nothing_is_written_for_no_rows():
    over = Written()
    MapTarget(over, PolicyKey, PolicyEntry).upsert({})
    assert over.batches == []


def test_a_dump_is_what_was_written_and_equal_values_are_one():
    target = MapTarget(Written(), PolicyKey, PolicyEntry)
    deny = PolicyEntry(deny=True, precedence=2, l4_bits=24)
    wanted = {key: deny if key.identity % 2 else ENTRY._replace() for key in keys(100)}
    target.upsert(wanted)
    found = target.dump()
    assert found == wanted
    assert len({id(value) for value in found.values()}) == 2
