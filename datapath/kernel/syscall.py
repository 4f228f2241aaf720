"""bpf(2) by ctypes: one function per command that we use, errors with what, where and what to do."""

import ctypes
import errno as errnos
import os
import platform
from enum import IntEnum
from typing import Final

from datapath.errors import Conflict, DatapathError, NoRoom, NotFound, Rejected, Unavailable

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_NUMBERS: Final = {"x86_64": 321, "aarch64": 280}
_NUMBER: Final = _NUMBERS.get(platform.machine(), 280)  # 280 is the generic table's, which new machines use
NAME_BYTES: Final = 15
_LICENSE: Final = b"Dual BSD/GPL\0"
_LOG_BYTES: Final = 1 << 20


class Command(IntEnum):
    """`enum bpf_cmd`."""

    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    OBJ_INFO = 15
    PROG_QUERY = 16
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


class ProgramKind(IntEnum):
    """`enum bpf_prog_type`."""

    SCHED_CLS = 3
    XDP = 6
    CGROUP_SOCK = 9
    CGROUP_SOCK_ADDR = 18


class AttachPoint(IntEnum):
    """`enum bpf_attach_type`."""

    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30
    CGROUP_INET_SOCK_RELEASE = 34
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


class KernelRefused(Unavailable):
    """The kernel refused an operation on one of its objects; `errno` says why."""

    code = "kernel.refused"

    def __init__(self, operation: str, subject: str, errno: int, hint: str = "") -> None:
        self.operation, self.subject, self.errno = operation, subject, errno
        self.hint = hint or _HINTS.get(errno, "see `cplane doctor`")

    def __str__(self) -> str:
        name = errnos.errorcode.get(self.errno, str(self.errno))
        return f"{self.operation} {self.subject}: {os.strerror(self.errno)} ({name}); {self.hint}"


class KernelObjectMissing(NotFound):
    """A key, a pin, a device or an id that does not exist."""

    code = "kernel.missing"

    def __init__(self, operation: str, subject: str) -> None:
        self.operation, self.subject = operation, subject

    def __str__(self) -> str:
        return f"{self.operation} {self.subject}: there is no such object in the kernel"


class KernelObjectExists(Conflict):
    """Somebody has made this object already."""

    code = "kernel.exists"

    def __init__(self, operation: str, subject: str) -> None:
        self.operation, self.subject = operation, subject

    def __str__(self) -> str:
        return f"{self.operation} {self.subject}: it exists already"


class MapFull(KernelRefused, NoRoom):
    """A map has no room for another entry."""

    code = "kernel.map_full"


class ProgramRefused(Rejected):
    """The verifier did not accept a program; `log` is its explanation."""

    code = "kernel.program_refused"

    def __init__(self, name: str, errno: int, log: str) -> None:
        self.name, self.errno, self.log = name, errno, log

    def __str__(self) -> str:
        tail = "\n".join(self.log.strip().splitlines()[-6:])
        words = f"the verifier's last words:\n{tail}" if tail else "the verifier did not come to look at it"
        return f"program {self.name}: {os.strerror(self.errno)}; {words}"


_HINTS: Final = {
    errnos.EPERM: "root or CAP_BPF and CAP_NET_ADMIN are needed",
    errnos.EACCES: "root or CAP_BPF and CAP_NET_ADMIN are needed",
    errnos.ENOMEM: "the kernel has no memory for it; make the map smaller or free memory",
    errnos.EINVAL: "this kernel does not know the request; `cplane doctor` lists what is missing",
    errnos.E2BIG: "the map is full; make it larger or remove entries",
    errnos.ENOSPC: "the map is full; make it larger or remove entries",
    errnos.ENODEV: "the device is gone",
    errnos.ENOSYS: "this kernel has no bpf(2), or what confines this process keeps it from it",
}


def bpf(command: Command, attributes: ctypes.Structure, subject: str) -> int:
    """The call's result, a descriptor or 0. Raises a DatapathError that names the command and `subject`."""
    while True:
        result: int = _LIBC.syscall(_NUMBER, int(command), ctypes.byref(attributes), ctypes.sizeof(attributes))
        if result >= 0:
            return result
        errno = ctypes.get_errno()
        if errno not in {errnos.EINTR, errnos.EAGAIN}:
            raise refusal(command, subject, errno)


def refusal(command: Command, subject: str, errno: int) -> DatapathError:
    """The error for `errno`: of the family that says whose move it is."""
    operation = f"bpf {command.name}"
    if errno == errnos.ENOENT:
        return KernelObjectMissing(operation, subject)
    if errno == errnos.EEXIST:
        return KernelObjectExists(operation, subject)
    if errno in {errnos.E2BIG, errnos.ENOSPC} and command in {Command.MAP_UPDATE, Command.MAP_UPDATE_BATCH}:
        return MapFull(operation, subject, errno)
    return KernelRefused(operation, subject, errno)


def object_name(name: str) -> bytes:
    """At most 15 bytes of the characters that the kernel allows. Raises ValueError if `name` is longer."""
    encoded = name.encode()
    if len(encoded) > NAME_BYTES:
        raise ValueError(f"{name!r} is longer than the {NAME_BYTES} bytes of a kernel object's name")
    return encoded


class _MapCreate(ctypes.Structure):
    _fields_ = [  # ctypes reads a plain list
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * 16),
    ]


def map_create(kind: int, key_size: int, value_size: int, max_entries: int, flags: int, name: str) -> int:
    """A descriptor of a new, empty map."""
    attributes = _MapCreate(kind, key_size, value_size, max_entries, flags, 0, 0, object_name(name))
    return bpf(Command.MAP_CREATE, attributes, f"map {name}")


class _Element(ctypes.Structure):
    _fields_ = [
        ("map_fd", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


def map_element(command: Command, fd: int, key: ctypes.Array[ctypes.c_char], value: int, subject: str) -> None:
    """One key's lookup, update or delete; `value` is the address of the value's bytes, or 0."""
    bpf(command, _Element(fd, 0, ctypes.addressof(key), value, 0), subject)


class _Batch(ctypes.Structure):
    _fields_ = [
        ("in_batch", ctypes.c_uint64),
        ("out_batch", ctypes.c_uint64),
        ("keys", ctypes.c_uint64),
        ("values", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("map_fd", ctypes.c_uint32),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    ]


def map_batch(
    command: Command, fd: int, cursor: tuple[int, int], keys: int, values: int, count: int, subject: str
) -> tuple[int, DatapathError | None]:
    """How many entries were done, and what stopped the rest.

    `keys`, `values` and the (in, out) of `cursor` are addresses.
    """
    attributes = _Batch(cursor[0], cursor[1], keys, values, count, fd, 0, 0)
    try:
        bpf(command, attributes, subject)
    except DatapathError as error:
        return attributes.count, error
    return attributes.count, None


class _ProgLoad(ctypes.Structure):
    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
    ]


def prog_load(kind: ProgramKind, point: AttachPoint, instructions: bytes, name: str) -> int:
    """A descriptor of the verified program for `point`. Raises ProgramRefused with the verifier's log."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    text = ctypes.create_string_buffer(_LICENSE, len(_LICENSE))
    attributes = _ProgLoad(int(kind), len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(text))
    attributes.prog_name = object_name(name)
    if kind is not ProgramKind.SCHED_CLS:  # which may be attached anywhere on a device
        attributes.expected_attach_type = int(point)
    try:
        return bpf(Command.PROG_LOAD, attributes, f"program {name}")
    except KernelRefused as error:
        if error.errno == errnos.EPERM:
            raise
    # Once more for the log: asking for it always would cost every load its megabyte.
    log = ctypes.create_string_buffer(_LOG_BYTES)
    attributes.log_level, attributes.log_size, attributes.log_buf = 1, _LOG_BYTES, ctypes.addressof(log)
    try:
        return bpf(Command.PROG_LOAD, attributes, f"program {name}")
    except KernelRefused as error:
        raise ProgramRefused(name, error.errno, log.value.decode(errors="replace")) from None


class _Object(ctypes.Structure):
    _fields_ = [("pathname", ctypes.c_uint64), ("bpf_fd", ctypes.c_uint32), ("file_flags", ctypes.c_uint32)]


def obj_pin(fd: int, path: str) -> None:
    """The object lives under `path` of a bpffs. Raises KernelObjectExists when something is there."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(Command.OBJ_PIN, _Object(ctypes.addressof(name), fd, 0), path)


def obj_get(path: str) -> int:
    """A descriptor of what is pinned at `path`. Raises KernelObjectMissing."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return bpf(Command.OBJ_GET, _Object(ctypes.addressof(name), 0, 0), path)


class MapInfo(ctypes.Structure):
    """The head of `struct bpf_map_info`."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    ]
    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    name: bytes


class ProgramInfo(ctypes.Structure):
    """The head of `struct bpf_prog_info`, to the verifier's count."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_ubyte * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("unused", ctypes.c_uint64 * 17),
        ("verified_insns", ctypes.c_uint32),
        ("attach_btf_obj_id", ctypes.c_uint32),
    ]
    type: int
    id: int
    xlated_prog_len: int
    jited_prog_len: int
    nr_map_ids: int
    map_ids: int
    name: bytes
    verified_insns: int


class LinkInfo(ctypes.Structure):
    """The head of `struct bpf_link_info` of a link on a device, or on a cgroup, which has its id instead."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
    ]
    type: int
    id: int
    prog_id: int
    ifindex: int
    attach_type: int

    @property
    def cgroup_id(self) -> int:
        """Of a link on a cgroup: its id, which is the inode of its folder; 0 when it is gone."""
        return self.ifindex | self.attach_type << 32


class _Info(ctypes.Structure):
    _fields_ = [("bpf_fd", ctypes.c_uint32), ("info_len", ctypes.c_uint32), ("info", ctypes.c_uint64)]


def _info(fd: int, info: ctypes.Structure, subject: str) -> None:
    bpf(Command.OBJ_INFO, _Info(fd, ctypes.sizeof(info), ctypes.addressof(info)), subject)


def map_info(fd: int) -> MapInfo:
    """What the kernel says of a map."""
    info = MapInfo()
    _info(fd, info, f"map descriptor {fd}")
    return info


def prog_info(fd: int) -> ProgramInfo:
    """What the kernel says of a program, without its maps."""
    info = ProgramInfo()
    _info(fd, info, f"program descriptor {fd}")
    return info


def prog_map_ids(fd: int) -> frozenset[int]:
    """The ids of the maps that a program uses."""
    count = prog_info(fd).nr_map_ids
    ids = (ctypes.c_uint32 * count)()
    info = ProgramInfo()
    info.nr_map_ids, info.map_ids = count, ctypes.addressof(ids)
    _info(fd, info, f"program descriptor {fd}")
    return frozenset(ids)


def link_info(fd: int) -> LinkInfo:
    """What the kernel says of a link; `ifindex` is 0 when its device is gone, and so is `cgroup_id`."""
    info = LinkInfo()
    _info(fd, info, f"link descriptor {fd}")
    return info


class _LinkCreate(ctypes.Structure):
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("relative_fd", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("expected_revision", ctypes.c_uint64),
    ]


def link_create(prog_fd: int, target: int, point: AttachPoint, subject: str, flags: int = 0) -> int:
    """A descriptor of a new link.

    `target` is the number of a device of the calling thread's network namespace, or the descriptor of a cgroup.
    """
    return bpf(
        Command.LINK_CREATE,
        _LinkCreate(prog_fd, target, int(point), flags, 0, 0, 0),
        f"{point.name} of {subject}",
    )


class _LinkUpdate(ctypes.Structure):
    _fields_ = [
        ("link_fd", ctypes.c_uint32),
        ("new_prog_fd", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("old_prog_fd", ctypes.c_uint32),
    ]


def link_update(link_fd: int, prog_fd: int, subject: str) -> None:
    """The next packet runs the new program; none runs without one."""
    bpf(Command.LINK_UPDATE, _LinkUpdate(link_fd, prog_fd, 0, 0), subject)


class _LinkDetach(ctypes.Structure):
    _fields_ = [("link_fd", ctypes.c_uint32)]


def link_detach(link_fd: int, subject: str) -> None:
    """The link's program runs no more, whoever still holds the link."""
    bpf(Command.LINK_DETACH, _LinkDetach(link_fd), subject)


class ProgramQuery(ctypes.Structure):
    """`bpf_attr.query`."""

    _fields_ = [
        ("target_ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("prog_cnt", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("prog_attach_flags", ctypes.c_uint64),
        ("link_ids", ctypes.c_uint64),
        ("link_attach_flags", ctypes.c_uint64),
        ("revision", ctypes.c_uint64),
    ]


def prog_query(ifindex: int, point: AttachPoint) -> tuple[int, ...]:
    """The ids of the programs attached to a device of the calling thread's network namespace, in running order."""
    ids = (ctypes.c_uint32 * 64)()
    attributes = ProgramQuery(ifindex, int(point), 0, 0, ctypes.addressof(ids), len(ids))
    bpf(Command.PROG_QUERY, attributes, f"{point.name} of device {ifindex}")
    return tuple(ids[: attributes.prog_cnt])


class TestRunAttributes(ctypes.Structure):
    """`bpf_attr.test`."""

    __test__ = False  # the name is the kernel's, not pytest's
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]
    retval: int
    data_size_out: int
    duration: int
