"""Lines are appended whole or not at all; large files are put aside, and few are kept."""

import errno
import gzip
import os
import resource
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cplane.hubble.exporter.file import RotatedFile
from tests.support.flows import START_NS


class Clock:
    """A millisecond passes with each look."""

    def __init__(self, step_ns: int = 1_000_000) -> None:
        self.now, self.step = START_NS, step_ns

    def __call__(self) -> int:
        self.now += self.step
        return self.now


def opened(
    path: Path, *, max_bytes: int = 0, backups: int = 0, compress: bool = False, clock: Clock | None = None
) -> RotatedFile:
    return RotatedFile(str(path), max_bytes=max_bytes, backups=backups, compress=compress, now_ns=clock or Clock())


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond that size: writing more fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_lines_follow_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "flows.log"
    first = opened(path)
    first.write(b"a\n")
    first.close()
    first.write(b"b\n")
    opened(path).write(b"c\n")
    assert path.read_bytes() == b"a\nb\nc\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_large_file_is_put_aside_under_its_time(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    file = opened(path, max_bytes=10)
    for line in (b"aaaa\n", b"bbbb\n", b"cccc\n", b"a line that is longer than that\n", b"d\n"):
        file.write(line)
    assert path.read_bytes() == b"d\n"
    aside = {one.name: one.read_bytes() for one in file.put_aside()}
    assert aside == {
        "flows-2024-07-24T10-02-11.001.log": b"aaaa\nbbbb\n",
        "flows-2024-07-24T10-02-11.002.log": b"cccc\n",
        "flows-2024-07-24T10-02-11.003.log": b"a line that is longer than that\n",
    }


def test_only_the_newest_are_kept_and_strangers_are_left_alone(tmp_path: Path) -> None:
    for stranger in ("flows-old.log", "other-2024-07-24T10-02-11.001.log", "flows-2024-07-24T10-02-11.001.txt"):
        (tmp_path / stranger).write_text("x")
    file = opened(tmp_path / "flows.log", max_bytes=2, backups=2, clock=Clock(step_ns=0))
    for number in range(13):
        file.write(b"%d\n" % number)
    assert sorted(one.read_bytes() for one in file.put_aside()) == [b"10\n", b"11\n"]
    assert len(list(tmp_path.iterdir())) == 6


def test_files_that_are_put_aside_can_be_packed(tmp_path: Path) -> None:
    file = opened(tmp_path / "flows.log", max_bytes=2, backups=1, compress=True)
    for number in range(3):
        file.write(b"%d\n" % number)
    (aside,) = file.put_aside()
    assert aside.name.endswith(".log.gz")
    assert gzip.decompress(aside.read_bytes()) == b"1\n"


def test_what_a_killed_process_had_begun_to_pack_is_there_once(tmp_path: Path) -> None:
    half = tmp_path / "flows-2024-07-24T10-02-11.001.log"
    half.write_bytes(b"half packed\n")
    half.with_name(f"{half.name}.gz.part").write_bytes(b"\x1f\x8b")
    whole = tmp_path / "flows-2024-07-24T10-02-11.002.log"
    whole.write_bytes(b"packed\n")
    whole.with_name(f"{whole.name}.gz").write_bytes(gzip.compress(b"packed\n"))
    file = opened(tmp_path / "flows.log", compress=True)
    file.write(b"new\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{half.name}.gz", f"{whole.name}.gz", "flows.log"]
    assert [gzip.decompress(path.read_bytes()) for path in sorted(file.put_aside())] == [b"half packed\n", b"packed\n"]


def test_without_room_nothing_is_torn_and_it_goes_on_when_there_is_some(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    file = opened(path)
    file.write(b"1\n")
    with room_for(6), pytest.raises(OSError) as full:
        file.write(b"a long line\n")
    assert full.value.errno == errno.EFBIG
    assert path.read_bytes() == b"1\n"
    file.write(b"2\n")
    assert path.read_bytes() == b"1\n2\n"


def test_a_file_that_somebody_else_moved_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "flows.log"
    file = opened(path)
    file.write(b"1\n")
    path.rename(tmp_path / "moved")
    file.write(b"2\n")
    assert path.read_bytes() == b"2\n"
    path.unlink()
    file.write(b"3\n")
    assert path.read_bytes() == b"3\n"


def test_what_is_no_file_is_written_to_and_never_put_aside() -> None:
    file = opened(Path("/dev/null"), max_bytes=1)
    for _ in range(3):
        file.write(b"lines\n")
    assert file.path == Path("/dev/null") and os.path.exists("/dev/null")
