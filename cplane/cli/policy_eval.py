"""`cplane policy eval`: what would become of traffic, for a stream of probes."""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, Self, runtime_checkable

import click

from cplane.cli.manifests import (
    STDIN,
    Offline,
    paths_option,
    reach_of,
    scene_of,
    scene_options,
)
from cplane.cli.policy_answers import answers_to
from cplane.cli.session import REFUSED
from cplane.telemetry.collector import without_collector

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

    from cplane.k8s.reach import Reach

_CHUNK_BYTES: Final = 1 << 18
_LINE_BYTES_MAX: Final = 1 << 20
_MANY: Final = 1000  # lines of a batch that are worth handing over
_AHEAD: Final = 3  # batches that wait for each process; beyond, no further line is read


@runtime_checkable
class _Arriving(Protocol):
    """A stream that can give what has come so far."""

    def read1(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        ...


_EPILOG: Final = """\b
A probe:   {"from": "shop/web", "to": "shop/api", "protocol": "TCP", "port": 80}
An answer: {"verdict": "ALLOWED|DENIED|AUDIT", "l7": false, "egress": {...}, "ingress": {...}}
"""


@click.command("eval", cls=Offline, epilog=_EPILOG)
@paths_option
@click.option("--probes", required=True, metavar="FILE", help="Questions, one JSON object on each line; - is stdin.")
@scene_options
@click.option(
    "-o",
    "--output",
    type=click.Choice(["jsonl", "table"]),
    default="jsonl",
    show_default=True,
    help="How to print the answers.",
)
def evaluate(
    *, paths: tuple[str, ...], probes: str, cluster: str, enforcement: str, audited: tuple[str, ...], output: str
) -> None:
    """Judge probes by the policies in the files: offline, with the code that fills the kernel's maps.

    Ends are namespace/pod, node/NAME or an address; `to` may be svc:namespace/name, where the worst backend
    counts. Ports may be names; ICMP has icmp_type. Over ports that go to a proxy, http, kafka or dns is what
    is asked; without it the answer has "l7": true. A line that is no probe is answered with {"error": ...},
    and the exit code is 1; empty lines are passed over.
    """
    if probes == STDIN and STDIN in paths:
        raise click.UsageError("standard input cannot hold both manifests and probes")
    reach = reach_of(scene_of(paths, cluster=cluster, enforcement=enforcement), audited)
    with without_collector():
        wrong = _answer_all(reach, probes, table=output == "table")
    if wrong:
        raise SystemExit(REFUSED)


def _answer_all(reach: "Reach", probes: str, *, table: bool) -> int:
    """Answers every line as it comes; how many of them were no probes."""
    if probes == STDIN:
        return _stream(reach, sys.stdin.buffer, table=table)
    try:
        opened = Path(probes).open("rb")  # noqa: SIM115  # only this may fail so
    except OSError as error:
        raise click.UsageError(f"{probes}: {error.strerror or error}") from None
    with opened:
        return _stream(reach, opened, table=table)


def _stream(reach: "Reach", source: BinaryIO, *, table: bool) -> int:
    wrong = number = 0
    out = sys.stdout.buffer
    with _Judges(reach, table=table) as judges:
        for lines in _batches(source):
            for text, errors in judges.answers(lines, number + 1):
                out.write(text)
                wrong += errors
            out.flush()  # whoever asks one by one has the answer before asking again
            number += len(lines)
        for text, errors in judges.rest():
            out.write(text)
            wrong += errors
    out.flush()
    return wrong


class _Judges:
    """Answers batches of lines, in their order: a long one in other processes, one for each processor.

    They are copies of this process, made when they are first needed, so they share what it has read.
    """

    def __init__(self, reach: "Reach", *, table: bool) -> None:
        self._reach, self._table = reach, table
        self._workers = len(os.sched_getaffinity(0))
        self._waiting: deque[Future[tuple[bytes, int]]] = deque()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def answers(self, lines: list[bytes], first: int) -> Iterator[tuple[bytes, int]]:
        """Answers that are there, and how many of their lines were no probes; lines are numbered from `first`."""
        if len(lines) < _MANY or self._workers < 2:
            yield from self.rest()
            yield answers_to(self._reach, lines, first, table=self._table)
            return
        if self._pool is None:
            self._pool = self._start()
        self._waiting.append(self._pool.submit(_judge, lines, first))
        while len(self._waiting) > _AHEAD * self._workers:
            yield self._waiting.popleft().result()

    def _start(self) -> "ProcessPoolExecutor":
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        _Judging.of = partial(answers_to, self._reach, table=self._table)
        fork = multiprocessing.get_context("fork")
        return ProcessPoolExecutor(self._workers, fork, initializer=_leave_interrupts_to_the_parent)

    def rest(self) -> Iterator[tuple[bytes, int]]:
        """The answers that are not there yet."""
        while self._waiting:
            yield self._waiting.popleft().result()


class _Judging:
    """What a process that judges was given when it began."""

    of: "Callable[[list[bytes], int], tuple[bytes, int]]"


def _judge(lines: list[bytes], first: int) -> tuple[bytes, int]:
    return _Judging.of(lines, first)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _batches(source: BinaryIO) -> Iterator[list[bytes]]:
    """The lines that are there, in as few lists as they come in."""
    rest = b""
    while chunk := _arrived(source):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LINE_BYTES_MAX:
            raise click.UsageError(f"a probe is longer than {_LINE_BYTES_MAX} bytes")
        yield lines
    yield [rest]


def _arrived(source: BinaryIO) -> bytes:
    """What is there, where the stream can tell without waiting for more."""
    return source.read1(_CHUNK_BYTES) if isinstance(source, _Arriving) else source.read(_CHUNK_BYTES)
