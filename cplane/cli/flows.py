"""Flows that users name: lines of JSON, a copy of an agent's flow ring, or of its archive."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from cplane.cli.session import Callback, fail

if TYPE_CHECKING:
    from cplane.timetravel.flows import RecordedFlow
    from cplane.timetravel.seen import Seen

_STDIN: Final = "-"
KINDS: Final = """\b
Flows are a file with lines as `hubble observe -o jsonpb` prints them (- is standard input), a copy of an agent's flow
ring (flows.ring, with flows.ring.tables and flows.ring.payloads beside it, copied after it), segments of its archive
(Parquet), or a folder with any of these; several together are those of one agent.
"""


def flows_option(callback: Callback) -> Callback:
    """The command takes `--flows PATH`, several times, as `flows`."""
    return click.option(
        "--flows", multiple=True, metavar="PATH", help="With --log: what was seen; a file, a flow ring or an archive."
    )(callback)


def seen_in(paths: Iterable[str], since: str, until: str, now_ns: int) -> "Seen | None":
    """What the flows say; None: no paths are given. Ends the process when they cannot be read.

    Raises BadMoment, BadQuestion, NotFlows.
    """
    from cplane.timetravel.seen import Sight, span_of

    paths = tuple(paths)
    if not paths:
        return None
    sight = Sight(*span_of(since, until, now_ns))
    try:
        texts, copies = _sorted(paths)
        if copies:
            from cplane.hubble.copied import open_copies

            open_copies(copies).fold(sight)
        with ExitStack() as opened:
            for text in texts:
                sight.fold(opened.enter_context(_opened(text)))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    return sight.seen()


def flow_in(paths: Iterable[str], uuid: str) -> "RecordedFlow":
    """The flow with the uuid, or of a single text without one the only flow there is. Ends the process without it."""
    from cplane.errors import CplaneError

    try:
        return _picked(tuple(paths), uuid)
    except CplaneError as error:
        fail(str(error))
    except OSError as error:
        raise click.UsageError(f"--flows {error.filename}: {error.strerror or error}") from None


def _picked(paths: tuple[str, ...], uuid: str) -> "RecordedFlow":
    from cplane.timetravel.flows import pick_flow

    texts, copies = _sorted(paths)
    if copies:
        from cplane.hubble.copied import open_copies

        if not uuid:
            raise click.UsageError("a ring or an archive has many flows: name the uuid of the one that is meant")
        line = open_copies(copies).line(uuid)
        if line is not None:
            return pick_flow([line], uuid)
    with ExitStack() as opened:
        return pick_flow((line for text in texts for line in _lines(opened.enter_context(_opened(text)))), uuid)


def _sorted(paths: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The paths of texts, and those of rings and archives. Raises OSError."""
    if all(path == _STDIN for path in paths):
        return [*paths], []
    from cplane.hubble.copied import is_copied

    copies = [path for path in paths if path != _STDIN and is_copied(path)]
    return [path for path in paths if path not in copies], copies


def _opened(path: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if path == _STDIN else Path(path).open("rb")


def _lines(opened: BinaryIO) -> Iterator[bytes]:
    """The lines of it; one that is longer than a flow can be is cut, and refused where it is read."""
    from cplane.timetravel.flows import LINE_BYTES_MAX

    while line := opened.readline(LINE_BYTES_MAX + 1):
        yield line
