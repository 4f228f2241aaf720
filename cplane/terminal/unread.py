"""What becomes of a command when nobody reads its standard output any more, as of `… | head`: its end, and no error."""

import errno
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import click

from cplane.terminal.interrupt import abandon_output

UNREAD: Final = 128 + signal.SIGPIPE
"""The exit code: what a shell says of programs that the signal ends, which is what other programs let it do."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def is_unread() -> bool:
    """Whether nobody reads what is written to standard output."""
    with suppress(OSError, ValueError):  # there is none
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # what has gone wrong is told unasked
        return bool(poll.poll(0))
    return False


class Program(click.Group):
    """A command line that ends without a word, with UNREAD, when nobody reads what it says."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """As click's; it prints what `--help` asks for."""
        with _until_unread():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """As click's."""
        with _until_unread():
            return super().invoke(ctx)


@contextmanager
def _until_unread() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        abandon_output()
        raise SystemExit(UNREAD) from None
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        abandon_output()
        raise click.ClickException(f"the output cannot be written: {error.strerror}") from None
