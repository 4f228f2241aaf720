"""Source → instructions, by bcc in a short-lived process; cached by content.

The cache is a folder given by the caller. An entry is written beside its place and moved there, so it is whole or
absent; one that does not match its own checksum is compiled again. So is one that there was no room for: a cache saves
time, and nobody needs it.
"""

import base64
import binascii
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datapath.errors import Rejected, Unavailable
from datapath.kernel import worker
from datapath.kernel.programs import PROGRAMS, UNITS
from datapath.source.defines import defines
from datapath.source.digest import digest

PYTHON: Final = "/usr/bin/python3"  # the distribution's, which python3-bpfcc belongs to
_BCC_VERSION: Final = Path("/usr/lib/python3/dist-packages/bcc/version.py")
_TIMEOUT_S: Final = 120


class CompilerMissing(Unavailable):
    """There is no bcc to compile with, and the cache has not what was asked for."""

    code = "compile.no_compiler"

    def __init__(self, python: str, detail: str) -> None:
        self.python, self.detail = python, detail

    def __str__(self) -> str:
        return f"{self.python} cannot compile BPF programs ({self.detail}); install the package python3-bpfcc"


class CompileFailed(Rejected):
    """The compiler did not accept the programs; `log` is what it printed."""

    code = "compile.failed"

    def __init__(self, source: str, log: str) -> None:
        self.source, self.log = source, log

    def __str__(self) -> str:
        return f"{self.source} does not compile:\n{self.log.strip()[-2000:]}"


@dataclass(frozen=True)
class Compiled:
    """Instructions per program, with map sentinels in place of descriptors; `digest` names what they were made of."""

    digest: str
    programs: Mapping[str, bytes]


def source_root() -> Path:
    """The folder `bpf/`: beside the packages in a checkout, inside this one when installed."""
    installed = Path(__file__).parents[1] / "_bpf"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "bpf"


def compiled(cache: Path, config: Mapping[str, int], *, python: str = PYTHON) -> Compiled:
    """The programs for `config` (names of source.defines). Raises CompilerMissing and CompileFailed."""
    root = source_root()
    texts = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.[ch]"))}
    arguments = defines(config)
    key = digest(texts, arguments, _toolchain())
    path = cache / f"{key}.bpf"
    programs = _read(path)
    if programs is None:
        programs = {}
        with ThreadPoolExecutor() as pool:  # each of them waits for a process
            for made in pool.map(lambda unit: _compile(root, unit, arguments, python), UNITS):
                programs |= made
        _write(path, programs)
    return Compiled(key, programs)


def _toolchain() -> str:
    try:
        return _BCC_VERSION.read_text()
    except OSError:
        return "none"  # the cache may still have been filled elsewhere for exactly this


def _compile(root: Path, unit: str, arguments: tuple[str, ...], python: str) -> Mapping[str, bytes]:
    request = {
        "text": (root / unit).read_text(),
        "include": str(root),
        "shim": str(root / "shim"),
        "arguments": arguments,
    }
    try:
        done = subprocess.run(
            [python, str(worker.__file__)],
            input=json.dumps(request).encode(),
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
            env={"PATH": os.defpath},
        )
    except OSError as error:
        raise CompilerMissing(python, str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise CompileFailed(unit, f"no end after {_TIMEOUT_S} s") from error
    log = done.stderr.decode(errors="replace")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise CompileFailed(unit, f"the compiler ended with code {done.returncode}\n{log}") from None
    if "missing" in answer:
        raise CompilerMissing(python, answer["missing"])
    if "error" in answer:
        raise CompileFailed(unit, log or answer["error"])
    return {name: base64.b64decode(text) for name, text in answer["programs"].items()}


def _checksum(programs: Mapping[str, bytes]) -> str:
    state = hashlib.blake2b(digest_size=32)
    for name in sorted(programs):
        state.update(f"{name}:{len(programs[name])};".encode())
        state.update(programs[name])
    return state.hexdigest()


def _read(path: Path) -> Mapping[str, bytes] | None:
    try:
        document = json.loads(path.read_bytes())
        programs = {name: base64.b64decode(text, validate=True) for name, text in document["programs"].items()}
        if document["checksum"] != _checksum(programs) or set(programs) != set(PROGRAMS):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        return None  # absent, unreadable or damaged: compile again
    return programs


def _write(path: Path, programs: Mapping[str, bytes]) -> None:
    """The cache has the programs, if it can be written."""
    document = {
        "checksum": _checksum(programs),
        "programs": {name: base64.b64encode(code).decode() for name, code in programs.items()},
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):  # a full disk, or one that is only read: the programs are here all the same
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(json.dumps(document))
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
