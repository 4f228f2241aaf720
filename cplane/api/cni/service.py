"""The CNI socket: one request and one answer per connection, and deletions that waited for the agent."""

import json
from typing import Final, Protocol

import anyio
import msgspec
from anyio import to_thread
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from cplane.api.cni import queue, request, wire
from cplane.api.cni.attachments import Attachments
from cplane.api.cni.peer import actor_behind
from cplane.api.cni.ports import Engine, Plumbing
from cplane.api.cni.request import Request
from cplane.api.cni.wire import CniError
from cplane.telemetry.fault import Fault
from cplane.telemetry.log import line, logger
from cplane.transport.address import UnixAddress
from cplane.transport.sockets import Door, inode_of, listen_unix, remove_unix

CONNECTIONS_MAX: Final = 64  # a further one waits in the socket's backlog
HEAD_BYTES_MAX: Final = 1 << 16
READ_DEADLINE_S: Final = 5.0
WRITE_DEADLINE_S: Final = 5.0
DRAIN_INTERVAL_S: Final = 5.0
QUEUE_ACTOR: Final = "cni-queue"

log = logger("cni")


class Clock(Protocol):
    """A clock for durations."""

    def monotonic_ns(self) -> int:
        """Nanoseconds on a clock that never steps."""
        ...


class ClientGoneError(Exception):
    """The plugin took no answer."""


class CniService:
    """Serves CNI plugins on a unix socket. `sweep.sweep` comes before `run`, the engine runs already."""

    def __init__(self, engine: Engine, plumbing: Plumbing, *, address: UnixAddress, clock: Clock) -> None:
        self._attachments = Attachments(engine, plumbing)
        self._address = address
        self._clock = clock
        self._folder = queue.folder_of(address.path)
        self._draining = anyio.Lock()
        self._unqueued = Fault(self._not_drained)
        self._connections = anyio.Semaphore(CONNECTIONS_MAX)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Deletions that waited are done, and plugins are served until this is cancelled.

        Raises AddressInUse, CannotListen.
        """
        await self._drain()
        raw = listen_unix(self._address)
        inode = inode_of(self._address)
        try:
            async with await SocketListener.from_socket(raw) as listener, anyio.create_task_group() as tasks:
                tasks.start_soon(self._drain_often)
                task_status.started()
                door = Door(listener, self._not_accepted)
                while True:
                    await self._connections.acquire()
                    tasks.start_soon(self._serve, await door.accept())
        finally:
            remove_unix(raw, self._address, inode)

    def _not_accepted(self, error: str) -> None:
        log.error(line("cni", kind="cni.accept", path=self._address.path, error=error, detail="tried again and again"))

    async def _serve(self, stream: SocketStream) -> None:
        try:
            async with stream:
                await self._exchange(stream)
        except ClientGoneError as gone:
            log.warning(line("cni", kind="cni.connection", error=str(gone)))
        finally:
            self._connections.release()

    async def _exchange(self, stream: SocketStream) -> None:
        started = self._clock.monotonic_ns()
        actor = actor_behind(stream.extra(SocketAttribute.raw_socket))  # noqa: S610  # no Django here
        head, body = await _receive(stream)
        config: object = None
        one: Request | None = None
        failure: CniError | None = None

        async def deliver(result: dict[str, object] | None) -> None:
            await _send(stream, 0, result)

        try:
            config = _decode(body, "the network configuration")
            one = request.read(_decode(head, "the request"), config)
            if one.verb == "ADD":
                await self._drain()  # a deletion of the same attachment that waits would come too late
                await self._attachments.add(one, actor, deliver)
            else:
                await self._do(one, actor)
                await deliver(None)
        except CniError as error:
            failure = error
        except ClientGoneError:
            raise
        except Exception as error:  # of ours; whoever met it is told, and nobody else loses the agent
            log.exception(line("cni", kind="cni.bug"))
            said = f"{type(error).__name__}: {error}"
            failure = CniError(wire.REFUSED, f"a mistake of cplane's own ({said}): report it with the agent's log")
        if failure is not None:
            await _send(stream, 1, failure.document(config))
        took = (self._clock.monotonic_ns() - started) / 1e6
        kind = f"cni.{one.verb.lower()}" if one else "cni.unreadable"
        container = one.container if one else ""
        if failure is None:
            log.info(line("cni", kind=kind, container=container, actor=actor, took_ms=took))
        else:
            code, text = str(failure.code), failure.msg
            log.warning(line("cni", kind=kind, container=container, actor=actor, took_ms=took, code=code, error=text))

    async def _do(self, one: Request, actor: str) -> None:
        match one.verb:
            case "DEL":
                await self._attachments.delete(one.container, one.interface, actor)
            case "CHECK":
                await self._attachments.check(one)
            case "GC":
                await self._drain()
                await self._attachments.collect(one.config, actor)
            case _:
                self._attachments.status()

    async def _drain_often(self) -> None:
        """What a plugin wrote down while the socket was just being opened is found within seconds."""
        while True:
            await anyio.sleep(DRAIN_INTERVAL_S)
            await self._drain()

    async def _drain(self) -> None:
        """Deletions that wait are done in their order; the first that fails stays, with those behind it."""
        fault = ""
        async with self._draining:
            try:
                await self._work_off()
            except OSError as error:  # the folder cannot be read or written: another time it can
                fault = str(error)
        self._unqueued.now(fault)

    def _not_drained(self, fault: str) -> None:
        detail = "deletions that wait are left for later"
        log.error(line("cni", kind="cni.queue", path=self._folder, error=fault, detail=detail))

    async def _work_off(self) -> None:
        """As `_drain`. Raises OSError."""
        for name, message in queue.waiting(self._folder):
            one, fault = _deletion(message)
            if one is None:
                log.error(line("cni", kind="cni.queue", path=name, error=f"set aside: {fault}"))
                await to_thread.run_sync(queue.set_aside, self._folder, name)
                continue
            try:
                await self._attachments.delete(one.container, one.interface, QUEUE_ACTOR)
            except CniError as error:
                log.warning(line("cni", kind="cni.queue", path=name, error=f"left for later: {error.msg}"))
                return
            await to_thread.run_sync(queue.remove, self._folder, name)
            log.info(line("cni", kind="cni.queue", path=name, container=one.container))


async def _receive(stream: SocketStream) -> tuple[bytes, bytes]:
    """Two lines, without their ends. Raises ClientGoneError when they do not come, or are too long."""
    lines = BufferedByteReceiveStream(stream)
    try:
        with anyio.fail_after(READ_DEADLINE_S):
            head = await lines.receive_until(b"\n", HEAD_BYTES_MAX)
            return head, await lines.receive_until(b"\n", wire.CONFIG_BYTES_MAX)
    except TimeoutError as late:
        raise ClientGoneError(f"no request within {READ_DEADLINE_S:.0f} s") from late
    except anyio.DelimiterNotFound as long:
        raise ClientGoneError(f"a request of more than {wire.CONFIG_BYTES_MAX} bytes") from long
    except (anyio.IncompleteRead, anyio.BrokenResourceError) as gone:
        raise ClientGoneError("it closed the connection before its request was complete") from gone


async def _send(stream: SocketStream, status: int, document: dict[str, object] | None) -> None:
    """The plugin has the answer, as far as the kernel can tell. Raises ClientGoneError."""
    text = json.dumps(document) if document is not None else ""
    try:
        with anyio.fail_after(WRITE_DEADLINE_S):
            await stream.send(f"{status}\n{text}\n".encode())
    except TimeoutError as slow:
        raise ClientGoneError(f"it did not take the answer within {WRITE_DEADLINE_S:.0f} s") from slow
    except (anyio.BrokenResourceError, anyio.ClosedResourceError) as gone:
        raise ClientGoneError("it closed the connection before the answer") from gone


def _deletion(message: dict[str, object] | None) -> tuple[Request | None, str]:
    """The deletion that was written down; None, with the reason, where it is none."""
    try:
        one = request.read(message, (message or {}).get("config"))
    except CniError as error:
        return None, error.msg
    return (one, "") if one.verb == "DEL" else (None, f"{one.verb} cannot be done later")


def _decode(message: bytes, what: str) -> object:
    try:
        return msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CniError(wire.DECODE_FAILURE, f"{what} is not JSON", str(error)) from error
