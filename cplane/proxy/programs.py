"""How our own proxies are run."""

import sys
from pathlib import Path

from cplane.proxy.process import Program


def own(kind: str, folder: Path, *arguments: str) -> Program:
    """`cplane.proxy.<kind>`, which finds the agent at `channel.sock` in the folder, where its own files are too."""
    command = [
        *(sys.executable, "-P", "-m", f"cplane.proxy.{kind}"),
        *("--channel", str(folder / "channel.sock"), "--rules", str(folder / f"{kind}.rules")),
        *arguments,
    ]
    return Program(kind, folder, tuple(command))
