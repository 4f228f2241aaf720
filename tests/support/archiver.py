"""Processes that archive and compact a log in small steps, to be killed: the victims of the test of retention.

    python -m tests.support.archiver PATH

For each line that it reads it starts another process, says `pid <number>`, waits until that is gone, and says `killed`,
or `done` when there was nothing left to do. One process that forks, because to import everything takes longer than to
be killed.
"""

import os
import sys

from cplane.eventlog import archiving
from cplane.eventlog.archiving import archive_file, compact_file
from cplane.timetravel.history import History

SEGMENT = 20


def say(line: str) -> None:
    """A line that is there at once."""
    os.write(1, f"{line}\n".encode())


def next_segment(history: History) -> int:
    """A position that drops one segment more."""
    return history.start + SEGMENT


def victim(path: str) -> None:
    """All but the newest event is archived, and then dropped, a segment at a time."""
    archiving.SEGMENT = SEGMENT  # type: ignore[misc]
    archive_file(path, lambda _: 1)
    while compact_file(path, next_segment).events:
        pass


def main(path: str) -> None:
    """One victim for each line."""
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            victim(path)
            os._exit(0)
        say(f"pid {pid}")
        _, status = os.waitpid(pid, 0)
        say("done" if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0 else "killed")


if __name__ == "__main__":
    main(sys.argv[1])
