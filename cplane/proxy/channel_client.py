"""A proxy's side of the channel. It is asyncio's, as the proxies are: their loops serve protocols and raw sockets.

    client = ProxyClient(PutDns, channel, rules, enforce)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.run())

The last rules stand in a file, written before they are confirmed: a proxy that starts while the agent is away
enforces those. Without the file, or with one that cannot be read, there are no ports and nothing passes.

What was seen waits, encoded, in at most SEEN_MAX bytes while the agent is away or slow; beyond that it is counted as
lost. Whatever the kernel and the transport hold when an agent is killed (some 100 KB) is lost uncounted.
"""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import msgpack

from cplane.domain.access import Access
from cplane.proxy.channel import (
    Ack,
    BrokenFrames,
    Failed,
    Forget,
    Frames,
    Hello,
    Learned,
    PutDns,
    PutKafka,
    Remove,
    Seen,
    Version,
    Written,
    encode_records,
    frame,
    to_proxy,
)
from cplane.telemetry.log import line, logger

SEEN_MAX: Final = 8 << 20
BATCH: Final = 512
BATCH_S: Final = 0.05
LEARNING: Final = 4096
"""Answers that wait for the agent at once; more are refused."""
RECONNECT_S: Final = (0.02, 0.5)
"""The first wait, and the longest."""
_READ: Final = 1 << 18

P = TypeVar("P", PutKafka, PutDns)
Enforce = Callable[[Mapping[int, P], Collection[int]], Awaitable[Mapping[int, str]]]
"""Rows that are new or changed and ports that are gone, by proxy port → why a port cannot be served, by port."""

log = logger("proxy")


class ProxyClient(Generic[P]):
    """One proxy's connection to the agent, whenever there is one. Use it on one event loop, from one thread."""

    def __init__(
        self,
        put: type[P],
        channel: Path,
        rules: Path,
        enforce: Enforce[P],
        forget: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`forget` is told the addresses of endpoints of which the agent knows nothing that was learned."""
        self._put: type[P] = put
        self._enforce: Enforce[P] = enforce
        self._forget = forget
        self._channel, self._file = channel, rules
        self._decoder: msgpack.Decoder[list[P]] = msgpack.Decoder(list[put])  # type: ignore[valid-type]
        self._kind = "dns" if issubclass(put, PutDns) else "kafka"
        self._rows: dict[int, P] = {}
        self._failed: Mapping[int, str] = {}
        self._records: list[Access] = []
        self._timer: asyncio.TimerHandle | None = None
        self._seen: deque[bytes] = deque()
        self._seen_bytes = 0
        self._control: deque[bytes] = deque()  # what confirms a version or a port, and at most LEARNING that learn
        self._learning: dict[int, asyncio.Future[bool]] = {}
        self._number = 0
        self._more = asyncio.Event()
        self.connected = False
        self.lost = 0
        """Records that there was no room for and that the agent has not been told of."""

    async def run(self) -> None:
        """The rules of the file, then those of the agent are enforced, until this is cancelled."""
        await self._change(self._saved(), ())
        pause, longest = RECONNECT_S
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._channel), limit=_READ)
            except OSError:
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                continue
            pause = RECONNECT_S[0]
            try:
                await self._talk(reader, writer)
            finally:
                writer.close()
            await asyncio.sleep(pause)

    def seen(self, record: Access) -> None:
        """The agent will be told in a while, if there is room. Never waits."""
        self._records.append(record)
        if len(self._records) >= BATCH:
            self._flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self._flush)

    async def learned(
        self, endpoint_ip: str, name: str, ips: tuple[str, ...], ttl: int, time_ns: int, server: str = ""
    ) -> bool:
        """Whether the datapath knows the answer now. False: the agent is away, or goes away, or too many wait.

        The caller says how long it waits, by cancelling.
        """
        if not self.connected or max(len(self._learning), len(self._control)) >= LEARNING:
            return False
        self._number += 1
        number = self._number
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._learning[number] = waiting
        self._send(frame(Learned(number, endpoint_ip, name, ips, ttl, time_ns, server)))
        try:
            return await waiting
        finally:
            self._learning.pop(number, None)

    async def failed(self, port: int, error: str) -> None:
        """The agent is told that a port cannot be served, or with an empty error that it can."""
        self._failed = {**self._failed, port: error} if error else {k: v for k, v in self._failed.items() if k != port}
        if self.connected:
            self._send(frame(Failed(port, error)))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._control.clear()
        writer.write(frame(Hello(self._kind, os.getpid())))
        self.connected = True
        log.info(line("agent connected", kind=self._kind))
        sending = asyncio.create_task(self._write(writer))
        try:
            await self._listen(reader)
        except BrokenFrames as error:
            log.warning(line("proxy channel broken", error=str(error)))
        except OSError:
            pass  # the agent has gone; what follows is the same as after its end of stream
        finally:
            self.connected = False
            sending.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await sending
            for waiting in self._learning.values():
                if not waiting.done():
                    waiting.set_result(False)
            log.info(line("agent disconnected", kind=self._kind))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        put: dict[int, P] = {}
        gone: set[int] = set()
        is_first = True
        while data := await reader.read(_READ):
            for body in frames.feed(data):
                match to_proxy(body):
                    case Remove(port):
                        put.pop(port, None)
                        gone.add(port)
                    case Version(version):
                        missing = self._rows.keys() - put.keys() if is_first else ()
                        await self._change(put, gone.union(missing) - put.keys(), everything=is_first)
                        self._send(frame(Ack(version)))
                        put, gone, is_first = {}, set(), False
                    case Written(number):
                        waiting = self._learning.get(number)
                        if waiting is not None and not waiting.done():
                            waiting.set_result(True)
                    case Forget(endpoint):
                        self._forget(endpoint)
                    case message if isinstance(message, self._put):
                        put[message.port] = message
                        gone.discard(message.port)
                    case _:
                        raise BrokenFrames("a row for another kind of proxy")

    async def _change(self, put: Mapping[int, P], gone: Collection[int], *, everything: bool = False) -> None:
        """What changes is in force and in the file, and the agent knows of ports that cannot be served."""
        changed = {port: one for port, one in put.items() if self._rows.get(port) != one or port in self._failed}
        gone = {port for port in gone if port in self._rows}
        failed: Mapping[int, str] = {}
        if changed or gone:
            failed = await self._enforce(changed, gone)
            self._rows = {port: one for port, one in {**self._rows, **put}.items() if port not in gone}
            self._save()
        before = self._failed
        self._failed = {p: why for p, why in before.items() if p not in changed and p not in gone} | dict(failed)
        if self.connected:
            for port in changed.keys() & before.keys() - failed.keys():
                self._send(frame(Failed(port, "")))
            for port, error in (self._failed if everything else failed).items():
                self._send(frame(Failed(port, error)))

    def _saved(self) -> dict[int, P]:
        try:
            rows = self._decoder.decode(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (
            OSError,
            msgspec.DecodeError,
            UnicodeDecodeError,
        ) as error:  # nothing passes until the agent says what may
            log.error(line("rules not read", path=str(self._file), error=str(error)))  # noqa: TRY400  # what follows is dealt with
            return {}
        return {one.port: one for one in rows}

    def _save(self) -> None:
        """The file has the rules; where it cannot be written there is none: old ones could allow too much."""
        beside = self._file.with_name(self._file.name + ".new")
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgpack.encode(list(self._rows.values())))
            os.replace(beside, self._file)
        except OSError as error:
            log.error(line("rules not written", path=str(self._file), error=str(error)))  # noqa: TRY400  # what follows is dealt with
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        records, self._records = self._records, []
        encoded = frame(Seen(encode_records(records), self.lost))
        if self._seen_bytes + len(encoded) > SEEN_MAX:
            self.lost += len(records)
            return
        self.lost = 0
        self._seen.append(encoded)
        self._seen_bytes += len(encoded)
        self._more.set()

    def _send(self, encoded: bytes) -> None:
        self._control.append(encoded)
        self._more.set()

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        """What waits is written as fast as the agent reads; confirmations and answers overtake what was seen."""
        while True:
            while self._control or self._seen or self.lost:
                if self._control:
                    writer.write(self._control.popleft())
                elif self._seen:
                    encoded = self._seen.popleft()
                    self._seen_bytes -= len(encoded)
                    writer.write(encoded)
                else:
                    writer.write(frame(Seen(encode_records([]), self.lost)))
                    self.lost = 0
                await writer.drain()
            self._more.clear()
            await self._more.wait()
