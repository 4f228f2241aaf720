"""How the Kafka proxy's process is run."""

import sys
from pathlib import Path

from cplane.proxy.process import Program

NAME = "kafka"


def program(folder: Path, *, clamp: bool = True) -> Program:
    """It finds the agent at `channel.sock` in the folder, where its own files are too. `clamp`: see kafka.py."""
    command = [
        *(sys.executable, "-P", "-m", "cplane.proxy.kafka"),
        *("--channel", str(folder / "channel.sock"), "--rules", str(folder / f"{NAME}.rules")),
        *(() if clamp else ("--no-clamp",)),
    ]
    return Program(NAME, folder, tuple(command))
