"""Unix sockets: a dead process's name is taken over, a living one's never."""

import os
import socket
import stat
from pathlib import Path

import anyio
import pytest

from cplane.transport import sockets
from cplane.transport.address import UnixAddress
from cplane.transport.sockets import AddressInUse, CannotListen, Door, inode_of, listen_unix, remove_unix
from tests.support.exhausted import files_left


def test_a_socket_has_the_permissions_that_were_asked_for(tmp_path: Path):
    address = UnixAddress(str(tmp_path / "a.sock"))
    with listen_unix(address):
        assert stat.S_IMODE(os.stat(address.path).st_mode) == 0o660
    address = UnixAddress(str(tmp_path / "b.sock"), mode=0o600)
    with listen_unix(address):
        assert stat.S_IMODE(os.stat(address.path).st_mode) == 0o600


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path):
    address = UnixAddress(str(tmp_path / "a.sock"))
    listen_unix(address).close()
    with listen_unix(address), socket.socket(socket.AF_UNIX) as client:
        client.connect(address.path)


def test_the_socket_of_a_living_process_is_refused_and_left_alone(tmp_path: Path):
    address = UnixAddress(str(tmp_path / "a.sock"))
    with listen_unix(address):
        with pytest.raises(AddressInUse, match="another process listens there"):
            listen_unix(address)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address.path)


def test_a_file_that_is_no_socket_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with pytest.raises(AddressInUse, match="no socket"):
        listen_unix(UnixAddress(str(path)))
    assert path.read_text() == "precious"


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(CannotListen, match="No such file"):
        listen_unix(UnixAddress(str(tmp_path / "no" / "a.sock")))


def test_a_name_that_somebody_else_has_taken_since_is_left_alone(tmp_path: Path):
    address = UnixAddress(str(tmp_path / "a.sock"))
    first = listen_unix(address)
    inode = inode_of(address)
    os.rename(address.path, tmp_path / "moved.sock")
    with listen_unix(address):
        remove_unix(first, address, inode)
        assert inode_of(address)
    (tmp_path / "moved.sock").unlink()


def test_a_name_is_removed_with_its_socket(tmp_path: Path):
    address = UnixAddress(str(tmp_path / "a.sock"))
    listener = listen_unix(address)
    remove_unix(listener, address, inode_of(address))
    assert inode_of(address) == 0


def test_a_process_with_too_many_open_files_cannot_listen(tmp_path: Path):
    address = UnixAddress(str(tmp_path / "a.sock"))
    with files_left(), pytest.raises(CannotListen):
        listen_unix(address)
    listen_unix(address).close()
    with files_left(), pytest.raises(CannotListen):  # nor ask whether somebody is there
        listen_unix(address)


class Refusing:
    """A listener at which some connections cannot be taken."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    async def accept(self) -> object:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise anyio.BrokenResourceError from answer
        return answer


@pytest.mark.anyio
async def test_connections_that_cannot_be_taken_are_told_once_in_a_row_and_end_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sockets, "ACCEPT_AGAIN_S", 0.0)
    many, told = OSError(24, "Too many open files"), list[str]()
    door = Door(Refusing(many, many, "one", "two", many, "three"), told.append)  # type: ignore[arg-type]
    assert [await door.accept() for _ in range(3)] == ["one", "two", "three"]
    assert told == [str(many), str(many)]
