"""Errors of bpf(2): the family says whose move it is, the text what to do."""

import errno

import pytest

from datapath.errors import Conflict, DatapathError, NotFound, Unavailable
from datapath.kernel.syscall import Command, MapFull, ProgramRefused, object_name, refusal


@pytest.mark.parametrize(
    ("command", "number", "family", "words"),
    [
        (Command.OBJ_GET, errno.ENOENT, NotFound, "no such object"),
        (Command.OBJ_PIN, errno.EEXIST, Conflict, "exists already"),
        (Command.MAP_CREATE, errno.EPERM, Unavailable, "root or CAP_BPF"),
        (Command.MAP_UPDATE, errno.E2BIG, MapFull, "the map is full"),
        (Command.MAP_UPDATE_BATCH, errno.ENOSPC, MapFull, "the map is full"),
        (Command.LINK_CREATE, errno.ENODEV, Unavailable, "the device is gone"),
        (Command.PROG_QUERY, errno.EINVAL, Unavailable, "cplane doctor"),
        (Command.PROG_QUERY, 999, Unavailable, "999"),
        (Command.MAP_CREATE, errno.ENOSYS, Unavailable, "no bpf(2)"),
    ],
)
def test_an_errno_becomes_an_error_of_a_family(
    command: Command, number: int, family: type[DatapathError], words: str
) -> None:
    error = refusal(command, "thing", number)
    assert isinstance(error, family)
    assert words in str(error)
    assert f"bpf {command.name} thing" in str(error)


def test_last_words_of_the_verifier_are_told_where_it_had_any() -> None:
    assert str(ProgramRefused("p", errno.EACCES, "0: exit\nR0 !read_ok\n")).endswith("words:\n0: exit\nR0 !read_ok")
    assert "words" not in str(ProgramRefused("p", errno.ENOSYS, ""))


def test_a_name_that_the_kernel_would_cut_is_refused() -> None:
    assert object_name("from_container") == b"from_container"
    with pytest.raises(ValueError, match="longer than the 15 bytes"):
        object_name("a_name_too_long_")
