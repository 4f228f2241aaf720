"""State map: the few numbers of the whole node that programs read and the agent writes, one u64 each."""

from enum import IntEnum, IntFlag
from typing import Final

from datapath.maps.cstruct import Field, Layout
from datapath.maps.spec import MapFlags, MapKind, MapSpec


class StateSlot(IntEnum):
    """Index → meaning."""

    POSITION = 0  # log position whose tables are all in the kernel; copied into every record
    EPOCH = 1  # grows with every round of writes; a connection approved under another one is judged again
    MONITOR = 2  # MonitorFlags
    LOST = 3  # records that found the ring buffer full; programs count it up
    DEBUG_LOST = 4  # debug records that found it half full, likewise
    NETNS = 5  # cookie of the network namespace that is the node's own
    PROXY = 6  # interface of Place.PROXY; 0: none, and what the stack sends to pods reaches no proxy


class MonitorFlags(IntFlag):
    """Which records programs emit."""

    DROP = 1
    VERDICT = 2
    TRACE = 4
    SOCKET = 8
    ALL = 15


KEY: Final = Layout("state_key", (Field("slot", "u32"),))
VALUE: Final = Layout("state_value", (Field("number", "u64"),))
SPEC: Final = MapSpec("cplane_state", 5, MapKind.ARRAY, KEY, VALUE, 8, MapFlags.MMAPABLE)
