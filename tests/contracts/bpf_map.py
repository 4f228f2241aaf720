"""What any map of bytes must do, in the kernel or in memory; an implementation gives `make`."""

from contextlib import AbstractContextManager
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datapath.errors import Unavailable
from datapath.maps import conntrack, endpoints, ipcache
from datapath.maps.ipcache import FAMILY_V4, FAMILY_V6, IpcacheInfo, IpcacheKey
from datapath.maps.spec import MapSpec
from tests.support.effort import examples

ROOM = 32
HASH = replace(endpoints.ADDRESS_SPEC, max_entries=ROOM)
TRIE = replace(ipcache.SPEC, max_entries=ROOM)
LRU = replace(conntrack.SPEC4, max_entries=ROOM)
EVERY_KIND = pytest.mark.parametrize("spec", [HASH, TRIE, LRU], ids=["hash", "trie", "lru"])
LIMITED = pytest.mark.parametrize("spec", [HASH, TRIE], ids=["hash", "trie"])


def prefix(text: str) -> bytes:
    """The trie's key for a prefix or an address."""
    return host(text, ip_network(text).prefixlen)


def host(text: str, bits: int) -> bytes:
    """The trie's key for the first bits of an address, with the others left as they are."""
    packed = ip_address(text.partition("/")[0]).packed
    return IpcacheKey(FAMILY_V4 if len(packed) == 4 else FAMILY_V6, packed.ljust(16, b"\0"), bits).pack()


def identity(number: int) -> bytes:
    return IpcacheInfo(number).pack()


def rows(spec: MapSpec, count: int, start: int = 0) -> dict[bytes, bytes]:
    """So many rows, with keys of their own."""
    full = (len(IpcacheKey(1, bytes(16), 128).pack()) - 4) * 8
    head = full.to_bytes(4, "little") if spec.kind is TRIE.kind else b"key:"
    return {
        head + number.to_bytes(spec.key_size - 4, "big"): (number + 1).to_bytes(spec.value_size, "little")
        for number in range(start, start + count)
    }


class MapContract:
    """The cases."""

    def make(self, spec: MapSpec) -> AbstractContextManager:
        """An empty map of this shape, gone afterwards."""
        raise NotImplementedError

    @EVERY_KIND
    def test_a_new_map_is_empty_and_has_no_value_for_a_key(self, spec):
        with self.make(spec) as made:
            assert made.dump() == {}
            assert all(made.lookup(key) is None for key in rows(spec, 3))

    @EVERY_KIND
    def test_what_is_written_is_found_and_a_second_write_replaces_it(self, spec):
        table = rows(spec, 20)
        with self.make(spec) as made:
            made.update_batch(list(table), list(table.values()))
            assert {key: made.lookup(key) for key in table} == made.dump() == table
            changed = {key: bytes(reversed(value)) for key, value in list(table.items())[::2]}
            made.update_batch(list(changed), list(changed.values()))
            assert made.dump() == table | changed

    @EVERY_KIND
    def test_of_two_values_for_a_key_the_later_stays(self, spec):
        (key, first), (_, second) = rows(spec, 2).items()
        with self.make(spec) as made:
            made.update_batch([key, key], [first, second])
            assert made.dump() == {key: second}

    @EVERY_KIND
    def test_deleting_says_how_many_were_there_and_passes_over_the_others(self, spec):
        table, absent = rows(spec, 10), list(rows(spec, 4, start=100))
        with self.make(spec) as made:
            made.update_batch(list(table), list(table.values()))
            gone = list(table)[:6]
            assert made.delete_batch([absent[0], *gone[:3], absent[1], absent[2], *gone[3:], gone[0], absent[3]]) == 6
            assert made.dump() == dict(list(table.items())[6:])
            assert made.lookup(gone[0]) is None
            assert made.delete_batch(gone) == 0

    @EVERY_KIND
    def test_an_empty_batch_is_no_work(self, spec):
        with self.make(spec) as made:
            made.update_batch([], [])
            assert made.delete_batch([]) == 0
            assert made.dump() == {}

    @pytest.mark.slow
    @EVERY_KIND
    def test_a_batch_may_be_longer_than_the_kernel_takes_at_once(self, spec):
        table = rows(spec, 40_000)
        # A kernel's LRU map keeps free entries for each CPU, so it gives up old ones before it is quite full.
        with self.make(replace(spec, max_entries=100_000)) as made:
            made.update_batch(list(table), list(table.values()))
            assert made.dump() == table
            half = list(table)[::2]
            assert made.delete_batch(half) == len(half)
            assert made.dump() == {key: table[key] for key in list(table)[1::2]}

    @EVERY_KIND
    def test_a_key_or_value_of_the_wrong_size_is_refused_and_nothing_is_written(self, spec):
        (key, value), (other, _) = rows(spec, 2).items()
        with self.make(spec) as made:
            made.update_batch([other], [value])
            for keys, values in (
                ([key, key[:-1]], [value, value]),
                ([key, key + b"\0"], [value, value]),
                ([key, key], [value, value[:-1]]),
                ([key, key], [value, value + b"\0"]),
                ([key, key], [value]),
                ([key], [value, value]),
            ):
                with pytest.raises(ValueError, match=r"cplane_\w+ takes|shorter|longer"):
                    made.update_batch(keys, values)
            for wrong in (b"", key[:-1], key + b"\0"):
                with pytest.raises(ValueError, match=r"cplane_\w+ takes"):
                    made.lookup(wrong)
                with pytest.raises(ValueError, match=r"cplane_\w+ takes"):
                    made.delete_batch([other, wrong])
            assert made.dump() == {other: value}

    # Full

    @LIMITED
    def test_a_full_map_says_so_and_has_what_came_before(self, spec):
        table = rows(spec, ROOM + 8)
        with self.make(spec) as made:
            with pytest.raises(Unavailable, match=rf"{spec.name}.* is full"):
                made.update_batch(list(table), list(table.values()))
            assert made.dump() == dict(list(table.items())[:ROOM])

    @LIMITED
    def test_a_full_map_takes_new_values_for_old_keys_and_new_keys_for_deleted_ones(self, spec):
        table = rows(spec, ROOM)
        more = rows(spec, 4, start=ROOM)
        with self.make(spec) as made:
            made.update_batch(list(table), list(table.values()))
            key = list(table)[5]
            made.update_batch([key], [bytes(spec.value_size)])
            assert made.lookup(key) == bytes(spec.value_size)
            assert made.delete_batch(list(table)[:4]) == 4
            made.update_batch(list(more), list(more.values()))
            assert made.dump() == {**dict(list(table.items())[4:]), key: bytes(spec.value_size), **more}

    # Least recently used

    def test_an_lru_map_is_never_full_and_keeps_what_was_written_last(self):
        table = rows(LRU, ROOM * 8)
        with self.make(LRU) as made:
            for key, value in table.items():
                made.update_batch([key], [value])
                assert made.lookup(key) == value
            kept = made.dump()
            assert 0 < len(kept) <= ROOM
            assert kept.items() <= table.items()
            assert list(table)[-1] in kept
            assert next(iter(table)) not in kept

    # Longest prefix

    def test_the_longest_prefix_of_an_address_is_found(self):
        table = {
            prefix("0.0.0.0/0"): identity(1),
            prefix("10.0.0.0/8"): identity(2),
            prefix("10.2.0.0/16"): identity(3),
            prefix("10.2.3.4/32"): identity(4),
            prefix("2001:db8::/32"): identity(5),
            prefix("2001:db8::1/128"): identity(6),
        }
        with self.make(TRIE) as made:
            made.update_batch(list(table), list(table.values()))
            for address, number in (
                ("10.2.3.4", 4),
                ("10.2.3.5", 3),
                ("10.3.0.0", 2),
                ("11.0.0.0", 1),
                ("2001:db8::1", 6),
                ("2001:db8::2", 5),
            ):
                assert made.lookup(prefix(address)) == identity(number), address
            assert made.lookup(prefix("2001:db9::1")) is None, "an address of the other family"

    def test_a_prefix_is_found_by_itself_and_by_what_it_holds_but_not_by_what_holds_it(self):
        with self.make(TRIE) as made:
            made.update_batch([prefix("10.2.0.0/16")], [identity(3)])
            assert made.lookup(prefix("10.2.0.0/16")) == made.lookup(prefix("10.2.128.0/17")) == identity(3)
            assert made.lookup(prefix("10.0.0.0/8")) is None
            assert made.lookup(prefix("10.3.0.0/16")) is None

    def test_deleting_a_prefix_leaves_those_around_it_and_in_it(self):
        whole = [prefix("10.0.0.0/8"), prefix("10.2.0.0/16"), prefix("10.2.3.0/24")]
        with self.make(TRIE) as made:
            made.update_batch(whole, [identity(number) for number in (1, 2, 3)])
            assert made.delete_batch([prefix("10.2.0.0/17"), prefix("10.2.0.0/15")]) == 0
            assert made.delete_batch([whole[1]]) == 1
            assert made.dump() == {whole[0]: identity(1), whole[2]: identity(3)}
            assert made.lookup(prefix("10.2.9.9")) == identity(1)
            assert made.lookup(prefix("10.2.3.9")) == identity(3)

    def test_bits_behind_a_prefix_do_not_matter_and_are_kept_as_they_were_written_last(self):
        with self.make(TRIE) as made:
            made.update_batch([host("10.1.2.3", 8)], [identity(1)])
            made.update_batch([host("10.9.9.9", 8)], [identity(2)])
            assert made.dump() == {host("10.9.9.9", 8): identity(2)}
            assert made.lookup(prefix("10.77.0.1")) == identity(2)
            assert made.delete_batch([prefix("10.0.0.0/8")]) == 1

    def test_a_prefix_longer_than_its_key_is_refused_and_matches_nothing(self):
        long = (10_000).to_bytes(4, "little") + prefix("10.0.0.0/8")[4:]
        with self.make(TRIE) as made:
            made.update_batch([prefix("10.0.0.0/8")], [identity(1)])
            with pytest.raises(Unavailable, match="cplane_ipcache"):
                made.update_batch([long], [identity(2)])
            with pytest.raises(Unavailable, match="cplane_ipcache"):
                made.delete_batch([long])
            assert made.lookup(long) is None
            assert made.dump() == {prefix("10.0.0.0/8"): identity(1)}

    @pytest.mark.slow
    @settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(
        st.lists(
            st.tuples(
                st.booleans(),
                st.lists(st.tuples(st.integers(0, 7), st.integers(120, 128), st.integers(1, 9)), max_size=6),
            ),
            max_size=8,
        )
    )
    def test_after_any_history_lookups_are_those_of_the_rows_read_literally(self, history):
        expected: dict[tuple[int, int], int] = {}
        with self.make(replace(TRIE, max_entries=512)) as made:
            for write, named in history:
                cut = [(low >> 128 - bits << 128 - bits, bits, number) for low, bits, number in named]
                keys = [host(str(ip_address((0xFD << 120) + low)), bits) for low, bits, _ in cut]
                if write:
                    made.update_batch(keys, [identity(number) for _, _, number in cut])
                    expected |= {(low, bits): number for low, bits, number in cut}
                else:
                    there = {(low, bits) for low, bits, _ in cut} & expected.keys()
                    assert made.delete_batch(keys) == len(there)
                    expected = {at: number for at, number in expected.items() if at not in there}
            for low in range(8):
                matching = [bits for start, bits in expected if low >> 128 - bits << 128 - bits == start]
                key = (low >> 128 - max(matching) << 128 - max(matching), max(matching)) if matching else None
                wanted = identity(expected[key]) if key else None
                assert made.lookup(host(str(ip_address((0xFD << 120) + low)), 128)) == wanted
