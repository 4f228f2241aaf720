"""Standard output: text in UTF-8, at once, and what it means when it cannot be written."""

import sys

from cplane.hubble.cli.failure import Failed
from cplane.terminal.interrupt import abandon_output


class ReaderGone(Exception):
    """Nobody reads our standard output any more: there is nothing left to do, and nothing wrong."""


def write_out(text: str) -> None:
    """The text is on its way to whoever reads our standard output. Raises ReaderGone, and Failed."""
    try:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except OSError as error:
        abandon_output()
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        raise Failed(f"cannot write to standard output: {error.strerror}") from None
