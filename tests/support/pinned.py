"""What an agent left in the kernel and in its log, read without it."""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from cplane.deciders.world import World, evolve, facts
from cplane.eventlog.codec import decode_all
from cplane.eventlog.schema import SELECT_ALL
from cplane.events.envelope import Envelope
from cplane.projections.tables import DEVICES, IPCACHE, LXC, POLICY, Tables
from datapath.kernel import syscall
from datapath.kernel.maps import KernelMap
from datapath.kernel.pin import Pins
from datapath.maps import endpoints, ipcache, policy, state
from datapath.maps.spec import MapSpec
from datapath.maps.state import StateSlot

SPECS: Final[Mapping[str, MapSpec]] = {
    POLICY: policy.SPEC,
    IPCACHE: ipcache.SPEC,
    LXC: endpoints.ADDRESS_SPEC,
    DEVICES: endpoints.DEVICE_SPEC,
}
_INFO: Final = {"maps": syscall.map_info, "progs": syscall.prog_info, "links": syscall.link_info}

Rows = dict[bytes, bytes]


def objects(root: Path) -> dict[str, int]:
    """Place under `root` → the kernel's number of the object that is pinned there."""
    found = {}
    for folder, info in _INFO.items():
        for path in (root / folder).iterdir():
            fd = syscall.obj_get(str(path))
            found[f"{folder}/{path.name}"] = int(info(fd).id)
            os.close(fd)
    return found


@contextmanager
def opened(root: Path, spec: MapSpec) -> Iterator[KernelMap]:
    """The pinned map."""
    held = KernelMap.open(spec, Pins(root))
    try:
        yield held
    finally:
        held.close()


def position(root: Path) -> int:
    """The log position that records carry."""
    with opened(root, state.SPEC) as held:
        raw = held.lookup(int(StateSlot.POSITION).to_bytes(4, "little"))
    assert raw is not None
    return int.from_bytes(raw, "little")


def tables(root: Path) -> dict[str, Rows]:
    """The kernel's tables as they are."""
    found = {}
    for name, spec in SPECS.items():
        with opened(root, spec) as held:
            found[name] = held.dump()
    return found


def envelopes(log: Path) -> list[Envelope]:
    """All events of the log in the file. Raises BadEvent."""
    with closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        return decode_all(connection.execute(SELECT_ALL), 0)


def recomputed(history: list[Envelope]) -> dict[str, Rows]:
    """The tables that the history leads to."""
    world = World()
    for envelope in history:
        world = evolve(world, envelope.stream, envelope.event)
    wanted = Tables(facts(world))
    return {name: {key.pack(): row.pack() for key, row in wanted.table(name).items()} for name in SPECS}  # type: ignore[attr-defined]  # each table has row types of its own
