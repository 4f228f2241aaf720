"""ADD, DEL, CHECK, GC, STATUS, VERSION: what the runtime says goes to the agent, what the agent says comes back.

A pod waits for this process, so it reads no JSON while the agent answers (`json` costs 10 ms, for `re` and
`enum`), and takes `_socket` and `posix`, which `socket` and `os` wrap at the price of 7 and 3 ms, with the same errors.
There is no argparse, logging or typing for the same reason. Only without the agent it looks at what it was given.
"""

import _socket
import posix
import sys
import time

from cplane import __version__
from cplane.api.cni import wire
from cplane.api.cni.wire import CniError

DEADLINE_S = 30.0
_CHUNK = 65_536
_PLAIN = frozenset(chr(c) for c in range(0x20, 0x7F)) - {'"', "\\"}  # needs no escape in JSON


class AgentAwayError(Exception):
    """Nobody answers on the agent's socket. `refused`: we may not even ask."""

    def __init__(self, path: str, reason: str, *, refused: bool = False) -> None:
        super().__init__(f"the agent does not answer on {path}: {reason}")
        self.path, self.refused = path, refused


class UnheardError(Exception):
    """Standard output does not take the answer, so the runtime has to take this call for failed."""


def command() -> None:
    """`main`, and the process ends at once: a pod would wait 3 ms more until the interpreter has cleaned up."""
    try:
        status = main()
    except UnheardError as unheard:
        status = _say(f"cplane-cni: standard output cannot be written: {unheard}\n", 1)
    if sys.stderr is not None:  # it is None where a caller has closed it
        sys.stderr.flush()
    posix._exit(status)  # noqa: SLF001  # os._exit is the same


def main() -> int:
    """The verb in CNI_COMMAND has been done, and its document printed; 0 or, for an error document, 1."""
    verb = _variable("CNI_COMMAND")
    if not verb:
        return _by_hand(sys.argv[1:])
    try:
        raw = _read_config()
    except CniError as error:
        return _print_error(error, None)
    if verb == "VERSION":
        return _version(raw)
    environment = {name: _variable(name) for name in wire.ENVIRONMENT}
    try:
        wire.check_text({"CNI_COMMAND": verb, **environment})
    except CniError as error:
        return _print_error(error, None)
    try:
        status, document = _ask(_socket_path(raw), _request(verb, environment, raw))
    except AgentAwayError as away:
        return _alone(verb, environment, raw, away)
    if document:
        _write(document)
    return status


def _by_hand(arguments: list[str]) -> int:
    """No runtime has called, but somebody who wants to know what this is, or to have it where runtimes look."""
    if arguments[:1] == ["install"] and len(arguments) < 3:
        from cplane.cni.install import FOLDER, install

        return install(*arguments[1:] or (FOLDER,))
    about = f"cplane-cni {__version__}, CNI protocol versions {', '.join(wire.VERSIONS)}\n"
    if arguments:
        return _say(f"{about}usage: cplane-cni install [FOLDER]; runtimes say what they want by CNI_COMMAND\n", 2)
    return _say(about, 0)


def _say(text: str, status: int) -> int:
    """The status; the text is on standard error, where there is one."""
    if sys.stderr is not None:
        sys.stderr.write(text)
    return status


def _variable(name: str) -> str:
    """Of the environment; empty: it is not set."""
    return posix.environ.get(name.encode(), b"").decode(errors="surrogateescape")


def _request(verb: str, environment: dict[str, str], raw: bytes) -> bytes:
    """The two lines of a request."""
    if all(_PLAIN.issuperset(value) for value in (verb, *environment.values())):
        pairs = ", ".join(f'"{name}": "{value}"' for name, value in environment.items())
        head = f'{{"verb": "{verb}", "env": {{{pairs}}}}}'
    else:
        import json

        head = json.dumps({"verb": verb, "env": environment})
    # In JSON a line break can stand between tokens only, where a space does as well.
    return b"%s\n%s\n" % (head.encode(), raw.replace(b"\n", b" ").replace(b"\r", b" "))


def _ask(path: str, request: bytes) -> tuple[int, bytes]:
    """Exit status and document of the agent's answer. Raises AgentAwayError."""
    deadline = time.monotonic() + DEADLINE_S
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(DEADLINE_S)
            connection.connect(path)
            connection.sendall(request)
            data = _receive(connection, deadline)
        finally:
            connection.close()
    except PermissionError as error:
        raise AgentAwayError(path, error.strerror or str(error), refused=True) from error
    except OSError as error:
        raise AgentAwayError(path, error.strerror or str(error)) from error
    status, _, document = data.partition(b"\n")
    if status not in {b"0", b"1"} or not document.endswith(b"\n"):
        raise AgentAwayError(path, "what it said is not an answer" if data else "it closed the connection")
    return int(status), document[:-1]


def _receive(connection: _socket.socket, deadline: float) -> bytes:
    data = b""
    while len(data) <= wire.ANSWER_BYTES_MAX:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        connection.settimeout(left)
        chunk = connection.recv(_CHUNK)
        if not chunk:
            break
        data += chunk
    return data


def _alone(verb: str, environment: dict[str, str], raw: bytes, away: AgentAwayError) -> int:
    """Wrong requests are refused as the agent would; a DEL is written down; the rest must be asked again."""
    config: object = None
    try:
        config = _decode(raw)
        checked = wire.check(verb, environment, config)
        if away.refused:
            raise CniError(wire.IO_FAILURE, str(away), "run the plugin as root or in the socket's group")
        if verb == "STATUS":
            raise CniError(wire.NOT_AVAILABLE, str(away), "pods that run go on as they are; start cplane-agent")
        if verb != "DEL":
            raise CniError(wire.TRY_AGAIN_LATER, str(away), "start cplane-agent; nothing has been changed")
        _write_down({"verb": verb, "env": environment, "config": checked}, away)
    except CniError as error:
        return _print_error(error, config)
    return 0


def _write_down(request: dict[str, object], away: AgentAwayError) -> None:
    from cplane.api.cni import queue

    folder = queue.folder_of(away.path)
    try:
        queue.push(folder, request)
    except queue.QueueFullError as full:
        raise CniError(wire.TRY_AGAIN_LATER, str(full), str(away)) from full
    except OSError as error:
        reason = f"cannot write down the deletion in {folder}: {error}"
        raise CniError(wire.IO_FAILURE, reason, str(away)) from error


def _read_config() -> bytes:
    if sys.stdin is None:  # closed, which for VERSION is as good as empty
        return b""
    try:
        data = sys.stdin.buffer.read(wire.CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise CniError(wire.IO_FAILURE, f"standard input cannot be read: {error}") from error
    if len(data) > wire.CONFIG_BYTES_MAX:
        raise CniError(wire.INVALID_CONFIG, f"the network configuration exceeds {wire.CONFIG_BYTES_MAX} bytes")
    return data


def _decode(data: bytes) -> object:
    import json

    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CniError(wire.DECODE_FAILURE, "the network configuration is not JSON", str(error)) from error


def _socket_path(raw: bytes) -> str:
    """Where the agent listens: environment, then configuration, then the default."""
    path = _variable("CPLANE_CNI_SOCKET")
    if path or b'"socket"' not in raw:
        return path or wire.DEFAULT_SOCKET
    try:
        config = _decode(raw)
    except CniError:
        return wire.DEFAULT_SOCKET  # what is wrong with it is said later
    return str((isinstance(config, dict) and config.get("socket")) or wire.DEFAULT_SOCKET)


def _version(raw: bytes) -> int:
    try:
        config = _decode(raw) if raw.strip() else None  # before 0.4.0 there was nothing to read
    except CniError as error:
        return _print_error(error, None)
    given = config.get("cniVersion") if isinstance(config, dict) else None
    version = given if isinstance(given, str) else wire.VERSIONS[-1]
    _print({"cniVersion": version, "supportedVersions": list(wire.VERSIONS)})
    return 0


def _print_error(error: CniError, config: object) -> int:
    _print(error.document(config))
    return 1


def _print(document: dict[str, object]) -> None:
    import json

    _write(json.dumps(document).encode())


def _write(document: bytes) -> None:
    """The document is on standard output. Raises UnheardError."""
    if sys.stdout is None:
        raise UnheardError("it is closed")
    try:
        sys.stdout.buffer.write(document + b"\n")
        sys.stdout.buffer.flush()
    except OSError as error:
        raise UnheardError(error.strerror or str(error)) from error
