"""What this kernel and this machine can do for us: asked by trying, never by version."""

import errno
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from datapath.errors import DatapathError
from datapath.kernel import compile as compiler
from datapath.kernel import load, pin, syscall
from datapath.kernel.maps import KernelMap
from datapath.kernel.syscall import KernelRefused
from datapath.maps import catalog, policy, state
from datapath.maps.spec import MapKind, MapSpec

_CAPABILITIES: Final[Mapping[str, int]] = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39}
_FIRST_NAMESPACE: Final = ["0", "0", "4294967295"]  # user_namespaces(7): where each user is who it is
_FORBIDDEN: Final = frozenset({errno.EPERM, errno.EACCES})
_ALLOW: Final = "the capabilities above, and nothing around that forbids it: user namespace, seccomp, lockdown"
_REDIRECT_PEER: Final = 155
_KTIME_COARSE: Final = 160
_LOOPBACK: Final = 1
_IP_TRANSPARENT: Final = 19


class Probe(NamedTuple):
    """One finding. `needed_for` what; `remedy` how to get it, empty when it is there."""

    name: str
    ok: bool
    detail: str
    needed_for: str
    remedy: str


class _Missing(Exception):
    """A probe's answer is no; the text says why."""


def probe(*, python: str = compiler.PYTHON) -> tuple[Probe, ...]:
    """All findings, in the order in which to mend them. Never raises, never leaves anything behind."""
    return tuple(_ask(*question) for question in _questions(python))


def cgroup2_mount(mounts: str) -> Path | None:
    """Where the unified hierarchy is mounted (text of /proc/self/mounts); in a hybrid setup not at /sys/fs/cgroup."""
    for line in mounts.splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(where.replace("\\040", " "))
    return None


def _questions(python: str) -> Iterator[tuple[str, Callable[[], str], str, str]]:
    yield (
        "capabilities",
        _capabilities,
        "everything in the kernel",
        "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN",
    )
    yield "bpffs", _bpffs, "surviving a restart of the agent", "mount -t bpf bpffs /sys/fs/bpf"
    yield "btf", _btf, "reading kernel types in diagnostics", "a kernel with CONFIG_DEBUG_INFO_BTF=y"
    yield "cgroup2", _cgroup2, "socket-level services", "mount -t cgroup2 none /sys/fs/cgroup/unified"
    yield (
        "lpm_trie",
        _makes(policy.SPEC),
        "policy and ipcache",
        "a kernel with CONFIG_BPF_SYSCALL=y, 4.11 or newer",
    )
    yield "lru_hash", _makes(catalog.SPECS[5]), "conntrack", "a kernel of 4.10 or newer"
    yield "ring_buffer", _makes(catalog.EVENTS), "flows", "a kernel of 5.8 or newer"
    yield "mmapable_array", _makes(state.SPEC), "publishing positions", "a kernel of 5.5 or newer"
    yield "batch_operations", _batches, "fast table updates", "a kernel of 5.6 or newer"
    yield "redirect_peer", _helper(_REDIRECT_PEER), "pod-to-pod delivery", "a kernel of 5.10 or newer"
    yield "coarse_clock", _helper(_KTIME_COARSE), "conntrack lifetimes", "a kernel of 5.11 or newer"
    yield "tcx", _tcx, "programs on devices", "a kernel of 6.6 or newer"
    yield "transparent", _transparent, "requests, with their addresses", "a kernel with CONFIG_INET, and CAP_NET_ADMIN"
    yield "xdp", _xdp, "clients outside, with lb.acceleration", "a kernel with CONFIG_BPF_SYSCALL=y, 5.9 or newer"
    yield "compiler", lambda: _compiler(python), "compiling the programs", "apt-get install python3-bpfcc"
    yield (
        "ip_forward",
        lambda: _forwarding("ipv4/ip_forward"),
        "IPv4 out of the node",
        "sysctl -w net.ipv4.ip_forward=1",
    )
    yield (
        "ipv6_forwarding",
        lambda: _forwarding("ipv6/conf/all/forwarding"),
        "IPv6 out of the node",
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    )


def _ask(name: str, question: Callable[[], str], needed_for: str, remedy: str) -> Probe:
    try:
        return Probe(name, True, question(), needed_for, "")
    except (_Missing, DatapathError, OSError) as error:
        # Who was not allowed to ask knows nothing of the kernel, and another kernel would not help.
        forbidden = isinstance(error, KernelRefused | OSError) and error.errno in _FORBIDDEN
        return Probe(name, False, str(error), needed_for, _ALLOW if forbidden else remedy)


def _capabilities() -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
            missing = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
            if missing:
                raise _Missing(f"without {', '.join(missing)}")
            if Path("/proc/self/uid_map").read_text().split() != _FIRST_NAMESPACE:
                raise _Missing("those of a user namespace, which do not count for maps and programs of the kernel")
            return ", ".join(_CAPABILITIES)
    raise _Missing("/proc/self/status has no CapEff")


def _bpffs() -> str:
    path = Path("/sys/fs/bpf")
    if pin.is_bpffs(path):
        return str(path)
    if path.is_dir() and os.geteuid() == 0:
        return f"not mounted at {path} yet; the agent mounts it"
    raise _Missing(f"not mounted at {path}")


def _btf() -> str:
    path = Path("/sys/kernel/btf/vmlinux")
    if not path.exists():
        raise _Missing(f"no {path}")
    return str(path)


def _cgroup2() -> str:
    path = cgroup2_mount(Path("/proc/self/mounts").read_text())
    if path is None:
        raise _Missing("no cgroup2 hierarchy is mounted")
    return str(path)


def _small(spec: MapSpec) -> MapSpec:
    size = os.sysconf("SC_PAGESIZE") if spec.kind is MapKind.RINGBUF else 64
    return MapSpec("cplane_probe", spec.slot, spec.kind, spec.key, spec.value, size, spec.flags)


def _makes(spec: MapSpec) -> Callable[[], str]:
    def question() -> str:
        KernelMap.create(_small(spec)).close()
        return spec.kind.name

    return question


def _batches() -> str:
    made = KernelMap.create(_small(policy.SPEC))
    try:
        made.update_batch([policy.PolicyKey(1, 0, 0, 0, 0, 0).pack()], [policy.PolicyEntry(False, 1, 0).pack()])
        if len(made.dump()) != 1:
            raise _Missing("an LPM trie does not give back in a batch what it was given in one")
    finally:
        made.close()
    return "LPM trie"


def _code(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(
        bytes((opcode, registers))
        + offset.to_bytes(2, "little", signed=True)
        + value.to_bytes(4, "little", signed=True)
        for opcode, registers, offset, value in instructions
    )


def _program(*instructions: tuple[int, int, int, int]) -> int:
    return load.load("cplane_probe", _code(*instructions), {})


_RETURN: Final = ((0xB7, 0, 0, 0), (0x95, 0, 0, 0))  # r0 = 0; exit


def _helper(number: int) -> Callable[[], str]:
    def question() -> str:
        arguments = ((0xB7, 1, 0, _LOOPBACK), (0xB7, 2, 0, 0))  # r1 = loopback; r2 = 0
        os.close(_program(*arguments, (0x85, 0, 0, number), *_RETURN))
        return f"helper {number}"

    return question


def _transparent() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as asked:
        asked.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    return "sockets with others' addresses"


def _tcx() -> str:
    # On a device that does not exist: a kernel with tcx says so, one without does not know the request.
    fd = _program(*_RETURN)
    try:
        syscall.prog_query(_LOOPBACK, syscall.AttachPoint.TCX_INGRESS)
    finally:
        os.close(fd)
    return "tcx links"


def _xdp() -> str:
    os.close(syscall.prog_load(syscall.ProgramKind.XDP, syscall.AttachPoint.XDP, _code(*_RETURN), "cplane_probe"))
    return "XDP programs"


def _compiler(python: str) -> str:
    try:
        done = subprocess.run(
            [python, "-c", "import bcc; print(bcc.__version__)"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        raise _Missing(f"{python} does not answer") from None
    if done.returncode:
        raise _Missing((done.stderr.strip().splitlines() or [f"{python} ended with {done.returncode}"])[-1])
    return f"bcc {done.stdout.strip()}"


def _forwarding(name: str) -> str:
    if Path("/proc/sys/net", name).read_text().strip() == "0":
        raise _Missing("off: pods reach each other and the node, but nothing beyond")
    return "on"
