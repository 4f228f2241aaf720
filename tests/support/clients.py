"""Processes that use services: in a namespace, and in a cgroup whose sockets are served."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.cgroup import SubGroup
from tests.support.netns import Namespace

_SCRIPT: Final = Path(__file__).with_name("socket_client.py")


class SocketClient:
    """One process; see socket_client.py for what it can be asked."""

    def __init__(self, netns: Namespace, group: SubGroup) -> None:
        self.process = subprocess.Popen(
            ["nsenter", f"--net={netns.path}", "--", sys.executable, "-I", "-S", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        group.add(self.process.pid)

    def ask(self, op: str, **asked: Any) -> dict[str, Any]:  # Any: JSON
        """What the process answers."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"op": op, **asked}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """The process has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        finally:
            self.process.stdout.close()


@contextmanager
def socket_client(netns: Namespace, group: SubGroup) -> Iterator[SocketClient]:
    """A client, ended afterwards."""
    made = SocketClient(netns, group)
    try:
        yield made
    finally:
        made.close()
