"""How our own proxies are run."""

import hashlib
import sys
from functools import cache
from pathlib import Path
from typing import Final

import cplane
from cplane.proxy.process import Program

_READ: Final = ("proxy", "domain")  # folders of the package: where what a proxy does with a message is written


def own(kind: str, folder: Path, *arguments: str) -> Program:
    """`cplane.proxy.<kind>`, which finds the agent at `channel.sock` in the folder, where its own files are too.

    The command says of which build the code is, so an agent that was upgraded replaces a proxy that was not.
    """
    command = [
        *(sys.executable, "-P", "-m", f"cplane.proxy.{kind}"),
        *("--channel", str(folder / "channel.sock"), "--rules", str(folder / f"{kind}.rules")),
        *("--build", build(Path(cplane.__file__).parent)),
        *arguments,
    ]
    return Program(kind, folder, tuple(command))


@cache
def build(package: Path) -> str:
    """The version with a digest of the code, as sources may change under one version. 2 ms."""
    digest = hashlib.sha256()
    for name in _READ:
        for path in sorted((package / name).rglob("*.py")):
            digest.update(b"%s\0%s\0" % (path.relative_to(package).as_posix().encode(), path.read_bytes()))
    return f"{cplane.__version__}-{digest.hexdigest()[:12]}"
