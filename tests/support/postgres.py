"""A PostgreSQL server of our own: in a temporary folder, on a unix socket only, gone afterwards."""

import os
import pwd
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

ACCOUNT = "postgres"  # the server refuses to run as root
SUPERUSER = "cptroot"
STRICT = "cptstrict"  # a role, where a test makes it, that needs its password
START_S = 30.0
_numbers = count()


def programs() -> Path | None:
    """The folder of the newest server that is installed; None: there is none."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: float(path.parts[-3]), default=None)
    return newest.parent if newest is not None else None


def in_ci() -> bool:
    """Whether nothing may be skipped."""
    return bool(os.environ.get("CI"))


NEEDS_POSTGRES = pytest.mark.skipif(
    programs() is None and not in_ci(), reason="needs PostgreSQL: apt-get install postgresql"
)


class Server:
    """One server, which can be killed and started again over the same files."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        assert found is not None, "PostgreSQL is not installed: apt-get install postgresql"
        self.folder, self._programs = folder, found
        self._process: subprocess.Popen[bytes] | None = None
        self._shared = ""
        self._drop = (
            ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--init-groups"] if not os.geteuid() else []
        )

    def make(self) -> None:
        """Its files are there, and nobody needs a password unless it is said."""
        if self._drop:
            account = pwd.getpwnam(ACCOUNT)
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        command = [str(self._programs / "initdb"), "-D", str(self.folder / "data"), "-U", SUPERUSER, "-A", "trust"]
        command += ["-E", "UTF8", "--locale=C", "--no-instructions", "--no-sync"]
        subprocess.run([*self._drop, *command], check=True, capture_output=True, cwd="/")
        (self.folder / "data/pg_hba.conf").write_text(f"local all {STRICT} scram-sha-256\nlocal all all trust\n")

    def start(self, *, wait: bool = True) -> None:
        """It serves."""
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        command += ["-c", "listen_addresses=", "-c", "max_connections=60", "-c", "shared_buffers=32MB"]
        command += ["-c", "fsync=off"]  # the server is killed here, and the machine never
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [*self._drop, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/"
            )
        deadline = time.monotonic() + START_S
        while wait:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "output").read_text()
                assert time.monotonic() < deadline, (self.folder / "output").read_text()
                time.sleep(0.02)  # another process's progress
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """It is gone: SIGINT ends its sessions, SIGKILL is a crash."""
        process, self._process = self._process, None
        if process is None:
            return
        if how is signal.SIGKILL:
            _kill(process.pid)
        else:
            process.send_signal(how)
        process.wait(START_S)

    def url(self, database: str, *, user: str = SUPERUSER, node: str = "", password: str = "") -> str:
        """How it is reached."""
        secret = f":{quote(password)}" if password else ""
        named = f"&node={node}" if node else ""
        return f"postgresql://{user}{secret}@/{database}?host={quote(str(self.folder))}{named}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """What the superuser does; the rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return list(cursor.fetchall()) if cursor.description else []

    def shared(self) -> str:
        """The address of a database for all who have a node of their own in it."""
        if not self._shared:
            self._shared = f"cpt{os.getpid()}"
            self.execute(f'CREATE DATABASE "{self._shared}"')
        return self.url(self._shared)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The name of a new database, gone afterwards."""
        name = f"cpt{os.getpid()}n{next(_numbers)}"
        self.execute(f'CREATE DATABASE "{name}"')
        try:
            yield name
        finally:
            self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _kill(pid: int) -> None:
    """The process and its children are gone. By themselves children would notice, later; the next server minds them."""
    os.kill(pid, signal.SIGSTOP)  # no new ones
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    children = [os.pidfd_open(int(one)) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    os.kill(pid, signal.SIGKILL)
    for child in children:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        assert select.select([child], [], [], START_S)[0], "a child of the server does not end"
        os.close(child)


@contextmanager
def server() -> Iterator[Server]:
    """One that serves; gone afterwards with its files."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"  # a database is a thousand files
    folder = Path(tempfile.mkdtemp(prefix="cptpg-", dir=memory))  # a socket's path must be short
    made = Server(folder)
    try:
        made.make()
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
