"""From source to pinned programs and back: cache, adoption, half-made states, foreign objects, full maps."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from datapath.kernel import compile as compiler
from datapath.kernel import load, syscall
from datapath.kernel.compile import CompileFailed, CompilerMissing, compiled
from datapath.kernel.datapath import KernelDatapath, remove, sized
from datapath.kernel.maps import ForeignMap, KernelMap
from datapath.kernel.pin import NoBpffs, Pins, is_bpffs
from datapath.kernel.probes import probe
from datapath.kernel.syscall import KernelRefused, MapFull, ProgramRefused
from datapath.maps import catalog, conntrack, endpoints, ipcache, metrics, policy, state
from datapath.maps.endpoints import DeviceInfo, DeviceKey
from datapath.maps.policy import PolicyEntry, PolicyKey
from datapath.targets.map import MapTarget
from tests.support import filesystems
from tests.support.kernel import SIZES

pytestmark = pytest.mark.root


@pytest.fixture
def root(cache: Path) -> Iterator[Path]:
    assert cache
    path = Path(f"/sys/fs/bpf/cptload{os.getpid()}")
    remove(path)
    yield path
    remove(path)
    assert not path.exists()


def opened(root: Path, cache: Path, **config: int) -> KernelDatapath:
    return KernelDatapath.open(root, cache=cache, sizes=SIZES, config=config)


def test_what_is_there_is_adopted_with_its_contents(root: Path, cache: Path) -> None:
    first = opened(root, cache)
    ids = {name: made.id for name, made in first.maps.items()}
    programs = [syscall.prog_info(first.program(name)).id for name in compiler.PROGRAMS]
    first.maps["cplane_devices"].update(DeviceKey(7).pack(), bytes(endpoints.DEVICE_VALUE.size))
    first.publish(11)
    first.close()
    second = opened(root, cache)
    assert {name: made.id for name, made in second.maps.items()} == ids
    assert [syscall.prog_info(second.program(name)).id for name in compiler.PROGRAMS] == programs
    assert second.maps["cplane_devices"].lookup(DeviceKey(7).pack()) == bytes(endpoints.DEVICE_VALUE.size)
    assert second.numbers[state.StateSlot.POSITION] == 11
    second.publish(12)
    assert second.numbers[state.StateSlot.EPOCH] == 2
    second.close()


def test_a_map_of_another_shape_is_refused_and_left_alone(root: Path, cache: Path) -> None:
    pins = Pins.open(root)
    foreign = KernelMap.create(replace(endpoints.ADDRESS_SPEC, max_entries=3))
    syscall.obj_pin(foreign.fd, str(pins.map("cplane_lxc")))
    with pytest.raises(ForeignMap, match=r"expected HASH of 64 entries.*found HASH of 3 entries") as refused:
        opened(root, cache)
    assert f"remove {root} with all that is in it" in str(refused.value)
    kept = KernelMap(foreign.spec, syscall.obj_get(str(pins.map("cplane_lxc"))))
    assert kept.id == foreign.id
    kept.close()
    foreign.close()


def test_maps_that_may_have_any_size_keep_the_one_that_they_have(root: Path, cache: Path) -> None:
    name = conntrack.SPEC4.name
    first = opened(root, cache)
    number = first.maps[name].id
    first.close()
    other = KernelDatapath.open(root, cache=cache, sizes={**SIZES, name: SIZES[name] * 2})
    assert (other.maps[name].id, other.maps[name].spec.max_entries) == (number, SIZES[name])
    other.close()


def test_a_program_pinned_as_a_map_is_refused(root: Path, cache: Path) -> None:
    first = opened(root, cache)
    pins = Pins(root)
    pins.map("cplane_lxc").unlink()
    syscall.obj_pin(first.program("to_container"), str(pins.map("cplane_lxc")))
    first.close()
    with pytest.raises(ForeignMap):
        opened(root, cache)


@pytest.mark.parametrize("lost", [["maps/cplane_lxc"], ["maps/cplane_ct4", "maps/cplane_state"], ["progs"], ["maps"]])
def test_a_half_made_state_is_finished(root: Path, cache: Path, lost: list[str]) -> None:
    opened(root, cache).close()
    for name in lost:
        path = root / name
        for victim in sorted(path.iterdir())[:1] if path.is_dir() else [path]:
            victim.unlink()
    again = opened(root, cache)
    used = syscall.prog_map_ids(again.program("from_container"))
    assert used <= {made.id for made in again.maps.values()}
    assert {path.name for path in (root / "maps").iterdir()} == {spec.name for spec in catalog.SPECS}
    assert len(list((root / "progs").iterdir())) == len(compiler.PROGRAMS)
    again.close()


def test_other_settings_are_other_programs_and_the_old_ones_go(root: Path, cache: Path) -> None:
    first = opened(root, cache)
    old = syscall.prog_info(first.program("from_container")).id
    first.close()
    second = opened(root, cache, report_interval_s=7)
    assert second.digest != first.digest
    assert syscall.prog_info(second.program("from_container")).id != old
    assert {digest for digest, _, _ in Pins(root).programs()} == {second.digest}
    second.close()


def test_removing_twice_is_removing_once(root: Path, cache: Path) -> None:
    opened(root, cache).close()
    remove(root)
    remove(root)
    assert not root.exists()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"{", b'{"checksum": "x", "programs": {}}', None])
def test_a_damaged_cache_entry_is_compiled_again(cache: Path, tmp_path: Path, damage: bytes | None) -> None:
    good = compiled(cache, {})
    path = tmp_path / f"{good.digest}.bpf"
    whole = (cache / path.name).read_bytes()
    path.write_bytes(whole.replace(b"AAAA", b"AAAB", 1) if damage is None else damage)
    assert compiled(tmp_path, {}) == good
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_programs_that_there_is_no_room_for_are_compiled_all_the_same(cache: Path, tmp_path: Path) -> None:
    good = compiled(cache, {})
    with filesystems.small(tmp_path / "full", 64) as full:
        (full / "other").write_bytes(bytes(60_000))
        assert compiled(full / "programs", {}) == good
        assert list((full / "programs").iterdir()) == []


@pytest.mark.slow
def test_a_cache_that_can_neither_be_read_nor_written_is_none(cache: Path, tmp_path: Path) -> None:
    place = tmp_path / "programs"
    place.write_text("not a folder")
    assert compiled(place, {}) == compiled(cache, {})


def test_the_cache_needs_no_compiler(cache: Path, tmp_path: Path) -> None:
    good = compiled(cache, {})
    assert compiled(cache, {}, python="/nonexistent/python3") == good
    with pytest.raises(CompilerMissing, match="install the package python3-bpfcc"):
        compiled(tmp_path, {}, python="/nonexistent/python3")


def test_a_python_without_bcc_is_no_compiler(tmp_path: Path) -> None:
    with pytest.raises(CompilerMissing, match="bcc"):
        compiled(tmp_path, {}, python=shutil.which("python3", path=".venv/bin") or "python3")


def test_what_does_not_compile_is_refused_with_the_compilers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bpf"
    shutil.copytree(compiler.source_root(), broken)
    main = broken / "bpf_lxc.c"
    main.write_text(main.read_text().replace("return CTX_ACT_OK;", "return CTX_ACT_OKAY;", 1))
    monkeypatch.setattr(compiler, "source_root", lambda: broken)
    with pytest.raises(CompileFailed, match="CTX_ACT_OKAY"):
        compiled(tmp_path / "cache", {})
    assert not list(tmp_path.glob("cache/*"))


def test_a_setting_that_no_program_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="ct_tcp_s"):
        compiled(tmp_path, {"ct_tpc_s": 1})


def test_a_size_for_no_map_is_refused() -> None:
    with pytest.raises(KeyError, match="cplane_lxc"):
        sized({"cplane_lcx": 1})


def test_a_program_that_the_verifier_refuses_brings_its_log() -> None:
    with pytest.raises(ProgramRefused, match="R0 !read_ok"):
        load.load("cplane_probe", bytes((0x95, 0, 0, 0, 0, 0, 0, 0)), {})


def test_a_slot_without_a_map_is_a_bug() -> None:
    code = bytes((0x18, 0x11, 0, 0)) + (load.MAP_SENTINEL + 200).to_bytes(4, "little") + bytes(8)
    with pytest.raises(load.UnknownMap, match="slot 200"):
        load.patched(code, {1: 3})


def test_only_map_loads_are_patched() -> None:
    constant = bytes((0x18, 0x01, 0, 0)) + (load.MAP_SENTINEL + 1).to_bytes(4, "little") + bytes(8)
    assert load.patched(constant, {1: 3}) == constant
    of_map = bytes((0x18, 0x11, 0, 0)) + (load.MAP_SENTINEL + 1).to_bytes(4, "little") + bytes(8)
    assert load.patched(of_map, {1: 3})[4:8] == bytes((3, 0, 0, 0))


@pytest.fixture
def small(root: Path) -> Iterator[dict[str, KernelMap]]:
    pins = Pins.open(root)
    specs = [replace(spec, max_entries=32) for spec in (policy.SPEC, endpoints.DEVICE_SPEC, conntrack.SPEC4)]
    maps = {spec.name: KernelMap.open(spec, pins) for spec in specs}
    yield maps
    for made in maps.values():
        made.close()


def _policies(count: int) -> dict[PolicyKey, PolicyEntry]:
    return {PolicyKey(5, n, 0, 6, 80, 24): PolicyEntry(False, n, 24) for n in range(1, count + 1)}


def test_a_full_map_says_so_and_has_what_came_before(small: dict[str, KernelMap]) -> None:
    target: MapTarget[PolicyKey, PolicyEntry] = MapTarget(small["cplane_policy"], PolicyKey, PolicyEntry)
    table = _policies(40)
    with pytest.raises(MapFull, match="the map is full"):
        target.upsert(table)
    assert target.dump() == dict(list(table.items())[:32])
    devices = small["cplane_devices"]
    for number in range(32):
        devices.update(DeviceKey(number).pack(), bytes(endpoints.DEVICE_VALUE.size))
    with pytest.raises(MapFull):
        devices.update(DeviceKey(32).pack(), bytes(endpoints.DEVICE_VALUE.size))


def test_a_map_target_is_idempotent_in_every_direction(small: dict[str, KernelMap]) -> None:
    target: MapTarget[PolicyKey, PolicyEntry] = MapTarget(small["cplane_policy"], PolicyKey, PolicyEntry)
    table = _policies(20)
    assert target.dump() == {}
    target.upsert({})
    target.delete([])
    target.upsert(table)
    target.upsert(table)
    assert target.dump() == table
    gone = list(table)[::2]
    absent = [PolicyKey(9, n, 1, 0, 0, 0) for n in range(5)]
    target.delete([absent[0], *gone[:3], absent[1], absent[2], *gone[3:], *absent[3:], *gone])
    assert target.dump() == {key: entry for key, entry in table.items() if key not in gone}


def test_every_kind_of_map_gives_back_what_it_was_given(root: Path) -> None:
    pins = Pins.open(root)
    for spec in (ipcache.SPEC, endpoints.ADDRESS_SPEC, conntrack.SPEC6):
        made = KernelMap.open(replace(spec, max_entries=5000), pins)
        prefix = (32 + 128).to_bytes(4, "little") if spec is ipcache.SPEC else b"\1\2\3\4"
        table = {
            prefix + number.to_bytes(spec.key_size - 4, "little"): number.to_bytes(spec.value_size, "big")
            for number in range(1, 3001)
        }
        made.update_batch(list(table), list(table.values()))
        assert made.dump() == table
        small_steps = [count for _, _, count in made.batches(64)]
        assert sum(small_steps) == 3000
        assert made.delete_batch(list(table)) == 3000
        assert made.dump() == {}
        made.close()


def test_a_value_of_the_wrong_size_never_reaches_the_kernel(small: dict[str, KernelMap]) -> None:
    devices = small["cplane_devices"]
    with pytest.raises(ValueError, match="cplane_devices takes"):
        devices.update(b"\0" * 4, b"\0" * 43)
    with pytest.raises(ValueError, match="cplane_devices takes"):
        devices.update_batch([b"\0" * 3, b"\0" * 5], [bytes(44), bytes(44)])


def test_a_per_cpu_map_has_a_value_for_each_cpu(root: Path) -> None:
    made = KernelMap.open(metrics.SPEC, Pins.open(root))
    value = made.lookup((0).to_bytes(4, "little"))
    assert value is not None
    assert len(value) % 16 == 0
    assert metrics.MetricsValue.total(value) == (0, 0)
    made.close()


def test_a_device_that_is_gone_cannot_be_attached_but_can_be_detached(root: Path, cache: Path) -> None:
    datapath = opened(root, cache)
    with pytest.raises(KernelRefused, match="the device is gone"):
        datapath.attach(1 << 20)
    datapath.detach(1 << 20)
    assert datapath.attached() == set()
    datapath.close()


def test_pins_need_a_bpffs(tmp_path: Path) -> None:
    assert not is_bpffs(tmp_path)
    with pytest.raises(NoBpffs, match="mount -t bpf"):
        Pins.open(tmp_path / "pins")


def test_the_probes_find_what_these_tests_need() -> None:
    found = {finding.name: finding for finding in probe()}
    for name in (
        "capabilities",
        "bpffs",
        "lpm_trie",
        "lru_hash",
        "ring_buffer",
        "batch_operations",
        "redirect_peer",
        "tcx",
    ):
        assert found[name].ok, found[name]
    assert all(finding.detail for finding in found.values())
    assert all(bool(finding.remedy) != finding.ok for finding in found.values())


def test_a_missing_compiler_is_a_finding() -> None:
    found = {finding.name: finding for finding in probe(python="/nonexistent/python3")}
    assert not found["compiler"].ok
    assert "python3-bpfcc" in found["compiler"].remedy


def test_a_device_entry_survives_the_round_trip() -> None:
    info = DeviceInfo(1, 2, 3, 4, bytes(4), bytes(16), bytes(6), bytes(6))
    assert DeviceInfo.unpack(info.pack()) == info
