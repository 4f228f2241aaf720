"""Datagrams every millisecond from a pod, and how many of them were answered."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.pods import PORT, Pod

_CLIENT: Final = Path(__file__).with_name("stream_client.py")


class Counted(NamedTuple):
    """What became of the datagrams; `lost` are the numbers of those that were not answered."""

    sent: int
    answered: int
    lost: list[int]


class Stream:
    """A running stream; `end` says what became of it."""

    def __init__(self, source: Pod, address: str, port: int = PORT) -> None:
        command = [sys.executable, "-I", "-S", str(_CLIENT), address, str(port)]
        self._process = subprocess.Popen(
            ["nsenter", f"--net={source.netns.path}", "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def end(self) -> Counted:
        """The stream is over."""
        out, _ = self._process.communicate(timeout=30)
        return Counted(**json.loads(out))

    def close(self) -> None:
        """The process is gone. Idempotent."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                end.close()


@contextmanager
def streams(*ends: tuple[Pod, str]) -> Iterator[list[Stream]]:
    """A stream from each pod to the address; gone afterwards."""
    made: list[Stream] = []
    try:
        made.extend(Stream(source, address) for source, address in ends)
        yield made
    finally:
        for one in made:
            one.close()
