"""A log has one writer, across processes, for as long as it lives and no longer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cplane.eventlog.errors import LogLocked, StorageFailed
from cplane.eventlog.lock import held

HOLDER = (
    "import sys, time; from cplane.eventlog.lock import held\n"
    "with held(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_a_second_holder_is_told_who_has_it(tmp_path):
    path = str(tmp_path / "log")
    with held(path), pytest.raises(LogLocked) as refused, held(path):
        raise AssertionError
    assert str(refused.value) == (
        f"{path} is in use by process {os.getpid()}: a log has one writer, stop that agent first"
    )
    with held(path):
        pass


@pytest.mark.slow
def test_a_process_that_is_killed_holds_it_no_more(tmp_path):
    path = str(tmp_path / "log")
    command = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LogLocked, match=f"in use by process {holder.pid}:"), held(path):
            raise AssertionError
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with held(path):
        assert Path(f"{path}.lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_is_the_files_whatever_name_it_is_opened_by(tmp_path):
    (tmp_path / "sub").mkdir()
    path, link = tmp_path / "sub" / "log", tmp_path / "link"
    link.symlink_to(path)
    with held(str(path)), pytest.raises(LogLocked), held(str(link)):
        raise AssertionError
    with held(str(link)), pytest.raises(LogLocked), held(str(path)):
        raise AssertionError
    assert [entry.name for entry in tmp_path.rglob("*.lock")] == ["log.lock"]


def test_the_lock_file_stays_and_is_its_owners_alone(tmp_path):
    with held(str(tmp_path / "log")):
        pass
    (left,) = tmp_path.iterdir()
    assert (left.name, left.stat().st_mode & 0o777) == ("log.lock", 0o600)


def test_a_holder_that_wrote_no_number_is_unknown(tmp_path):
    path = str(tmp_path / "log")
    with held(path):
        Path(f"{path}.lock").write_text("")
        with pytest.raises(LogLocked, match="in use by process unknown"), held(path):
            raise AssertionError


@pytest.mark.parametrize(("folder", "reason"), [("none", "No such file or directory"), ("file", "Not a directory")])
def test_a_lock_that_cannot_be_made_says_where_and_why(tmp_path, folder, reason):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / folder / "log")
    with pytest.raises(StorageFailed, match=f"{path}: cannot open {path}.lock: {reason}"), held(path):
        raise AssertionError


def test_an_error_inside_lets_it_go(tmp_path):
    path = str(tmp_path / "log")
    with pytest.raises(ZeroDivisionError), held(path):
        raise ZeroDivisionError
    with held(path):
        pass
