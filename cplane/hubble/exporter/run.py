"""Exports at work: each follows the ring by position, and a file of flow logs is read again when it changes.

How far an export is stands on disk (`mark.py`), so it goes on there after a restart.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import numpy as np
from anyio import to_thread
from anyio.abc import TaskGroup
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from cplane.hubble.exporter.config import BadExport, Export, parse_flow_logs
from cplane.hubble.exporter.encode import LineEncoder
from cplane.hubble.exporter.file import RotatedFile
from cplane.hubble.exporter.mark import Mark, Step, forget_others
from cplane.hubble.fieldmask import parse_mask
from cplane.hubble.filters import BadFilter, compile_filters
from cplane.hubble.follower import Follower
from cplane.hubble.store import FlowStore
from cplane.telemetry.log import line, logger
from cplane.telemetry.metrics import Counters

BATCH: Final = 512  # rows that are encoded before others have their turn
BATCHES: Final = 8  # that are written at a time
_REST_S: Final = 0.1  # between looks while flows come: the more at a time, the cheaper each
_WATCH_S: Final = 1.0
_LAST_S: Final = 2.0  # for what is there at the end

log = logger("exporter")


class Exporter:
    """One export. What it has not read when it is overwritten, or cannot write, is counted as lost."""

    def __init__(self, export: Export, store: FlowStore, now_ns: Callable[[], int]) -> None:
        try:
            self._selects = compile_filters(*export.filters, store, trusted=True)
        except BadFilter as bad:
            raise BadExport(f"export {export.name}", str(bad)) from bad
        self.export, self._now_ns = export, now_ns
        self._store = store
        self.follower = Follower(store)
        self.mark = Mark(None, store.seed)
        self._encoder = LineEncoder(store, parse_mask(export.fields) if export.fields else None)
        self._file = RotatedFile(
            export.path, max_bytes=export.max_bytes, backups=export.backups, compress=export.compress, now_ns=now_ns
        )
        self._thread = anyio.CapacityLimiter(1)  # its own: a disk that hangs must not take those of others
        self.written = 0  # flows
        self.dropped = 0  # flows that could not be written
        self.failure = ""  # why not, the last time; empty when they could

    @property
    def is_over(self) -> bool:
        """Whether its end has come."""
        return self.export.end_ns is not None and self._now_ns() >= self.export.end_ns

    @property
    def reached(self) -> Step:
        """How far the ring is read."""
        return Step(self.follower.position, self.follower.told)

    def go_on(self, mark: Mark, reached: Step | None) -> None:
        """It keeps the mark, and begins there or, if it is given, at `reached`; otherwise with what comes from now on.

        Of a ring that was not there yet everything is new, and a mark of its predecessor says how many flows are
        missing before it, where positions went on.
        """
        self.mark, reached = mark, reached or mark.reached
        if reached is None:
            return
        ring = self._store.ring
        if mark.is_of_ring:
            self.follower = Follower(self._store, min(reached.position, ring.written), told=reached.told)
        else:
            self.follower = Follower(self._store, min(reached.position, ring.oldest))

    async def run(self) -> None:
        """Flows are written until its end has come, or this is cancelled: then what is there is written still."""
        try:
            while not self.is_over:
                if await self._step():
                    continue
                with anyio.move_on_after(_WATCH_S):
                    await self.follower.wait()
                await anyio.sleep(_REST_S)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(_LAST_S, shield=True):
                while not self.is_over and await self._step():
                    pass
            raise
        finally:
            self._file.close()
            self.mark.close()

    async def _step(self) -> bool:
        """The next rows are written, as a whole or not at all; False: there were none."""
        lines: list[bytes] = []
        count, more = 0, True
        before = self.reached
        with anyio.CancelScope(shield=True):  # so that whoever goes on from our position misses nothing
            if self.mark.reached is None:
                await to_thread.run_sync(self.mark.done, before, limiter=self._thread)
            for _ in range(BATCHES):
                taken = self.follower.take(BATCH)
                lines += [self._encoder.loss(loss) for loss in taken.losses]
                if taken.span is None:
                    more = False
                    break
                rows = np.flatnonzero(self._selects(taken.span)) if self._selects else np.arange(len(taken.span))
                if len(rows):
                    lines.append(self._encoder.encode(taken.span, rows))
                    count += len(rows)
                await anyio.lowlevel.checkpoint()
            if lines or self.reached != before:
                await to_thread.run_sync(self._write, b"".join(lines), count, limiter=self._thread)
        await anyio.lowlevel.checkpoint()
        return more

    def _write(self, lines: bytes, count: int) -> None:
        """The lines are written, and the mark says so: of those that cannot be, too, as they are lost."""
        after = self.reached
        if lines:
            self._append(lines, count, after)
        self.mark.done(after)

    def _append(self, lines: bytes, count: int, after: Step) -> None:
        try:
            place = self._file.prepare(len(lines))
            if place is not None:
                self.mark.begin(after, place, len(lines))
            self._file.append(lines)
        except OSError as error:
            self._failed(error, count)
            return
        if self.failure:
            log.info(line("export", kind="goes on", path=self.export.path))
            self.failure = ""
        self.written += count

    def _failed(self, error: OSError, count: int) -> None:
        """The flows are lost. Said once, until it works again."""
        self.dropped += count
        if not self.failure:
            log.error(line("export", kind="failed", path=self.export.path, error=str(error)))
        self.failure = error.strerror or str(error)
        self._file.close()


class Exports:
    """The exports of one store: one that stays, and those of a file that is watched.

    `marks` is a folder that says how far each is; empty: none goes on after a restart. Raises BadExport for the one
    that stays.
    """

    def __init__(
        self, store: FlowStore, now_ns: Callable[[], int], *, static: Export | None, watched: str, marks: str = ""
    ) -> None:
        self._store, self._now_ns, self._marks = store, now_ns, marks
        self._watched = Path(watched) if watched else None
        self._running: dict[str, tuple[Exporter, anyio.CancelScope, anyio.Event]] = {}
        self._static = static
        self._first = None if static is None else Exporter(static, store, now_ns)
        self._thread = anyio.CapacityLimiter(1)  # its own, for marks and the file that is watched
        self._digest = b""
        self._applied_ns = 0
        self.failure = ""  # why the file that is watched does not hold; empty when it does
        labels = ("name",)
        self._changes = Counters("hubble_dynamic_exporter_reconfigurations_total", "Changes of exports.", ("op",))
        self._written = Counters("cplane_export_flows_total", "Flows that were exported.", labels)
        self._lost = Counters(
            "cplane_export_lost_flows_total", "Flows that were not exported: missed, or not written.", (*labels, "why")
        )

    async def run(self) -> None:
        """Flows are exported until this is cancelled."""
        async with anyio.create_task_group() as tasks:
            if self._first is not None:
                await self._start(self._first, tasks)
            if self._watched is None:
                await self._forget_others(())
            while self._watched is not None:
                data = await to_thread.run_sync(_content, self._watched, limiter=self._thread)
                if data is not None:
                    await self._follow(data, tasks)
                await anyio.sleep(_WATCH_S)
            await anyio.sleep_forever()

    def metrics(self) -> list[Metric]:
        """What the exports do."""
        for name, (exporter, _, _) in self._running.items():
            self._account(name, exporter)
        return [*self._dynamic(), self._written.metric(), self._lost.metric()]

    def _account(self, name: str, exporter: Exporter) -> None:
        """What it did since the last time is counted."""
        self._written.at(name).value += exporter.written
        self._lost.at(name, "missed").value += exporter.follower.missed
        self._lost.at(name, "not written").value += exporter.dropped
        exporter.written = exporter.follower.missed = exporter.dropped = 0

    def _dynamic(self) -> Iterator[Metric]:
        """As upstream has them: of the exports in the file that is watched."""
        dynamic = {name: one for name, (one, _, _) in self._running.items() if one.export is not self._static}
        active = {name: not one.is_over for name, one in dynamic.items()}
        total = GaugeMetricFamily("hubble_dynamic_exporter_exporters_total", "Exports by status.", labels=("status",))
        total.add_metric(("active",), sum(active.values()))
        total.add_metric(("inactive",), len(active) - sum(active.values()))
        up = GaugeMetricFamily("hubble_dynamic_exporter_up", "Whether an export is active.", labels=("name",))
        for name, is_active in active.items():
            up.add_metric((name,), float(is_active))
        yield total
        yield up
        yield self._changes.metric()
        digest = int.from_bytes(self._digest[:4], "big")
        yield GaugeMetricFamily("hubble_dynamic_exporter_config_hash", "Hash of the configuration.", digest)
        yield GaugeMetricFamily(
            "hubble_dynamic_exporter_config_last_applied", "When the configuration was applied.", self._applied_ns / 1e9
        )
        yield GaugeMetricFamily(
            "cplane_export_config_refused",
            "1 while the configuration that is watched is one that cannot be applied.",
            float(bool(self.failure)),
        )

    async def _follow(self, data: bytes, tasks: TaskGroup) -> None:
        """The exports are those of the file; one that it does not change goes on untouched."""
        digest = hashlib.sha256(data).digest()
        if digest == self._digest:
            return
        self._digest = digest
        try:
            wanted = {export.name: export for export in parse_flow_logs(data)}
            made = self._make(wanted)
        except BadExport as bad:
            self._refused(bad)
            return
        self.failure, self._applied_ns = "", self._now_ns()
        dynamic = [name for name, (one, _, _) in self._running.items() if one.export is not self._static]
        reached: dict[str, Step] = {}
        for name in dynamic:
            if name in wanted and name not in made:
                continue
            reached[name] = await self._stop(name)
            if name not in made:
                self._changes.at("remove").value += 1
        for name, exporter in made.items():
            self._changes.at("update" if name in dynamic else "add").value += 1
            await self._start(exporter, tasks, reached.get(name))
        await self._forget_others(wanted)
        log.info(line("export", kind="configured", path=str(self._watched), entries=len(wanted)))

    def _refused(self, bad: BadExport) -> None:
        """All goes on as before."""
        self.failure = str(bad)
        log.error(line("export", kind="refused", path=str(self._watched), error=self.failure))

    def _make(self, wanted: Mapping[str, Export]) -> dict[str, Exporter]:
        """Exporters of what is new or changed; none starts when one of them cannot be made. Raises BadExport."""
        made = {}
        for name, export in wanted.items():
            running = self._running.get(name)
            if running is None or running[0].export != export:
                made[name] = Exporter(export, self._store, self._now_ns)
        return made

    async def _start(self, exporter: Exporter, tasks: TaskGroup, reached: Step | None = None) -> None:
        """The export goes on where it was, at `reached` if it has just been stopped."""
        scope, done, export = anyio.CancelScope(), anyio.Event(), exporter.export
        mark = await to_thread.run_sync(
            Mark.open, self._marks, export.name, self._store.seed, export.path, limiter=self._thread
        )
        exporter.go_on(mark, reached)

        async def run() -> None:
            try:
                with scope:
                    await exporter.run()
            finally:
                done.set()

        self._running[export.name] = (exporter, scope, done)
        tasks.start_soon(run)

    async def _stop(self, name: str) -> Step:
        """The export has ended; how far it has read."""
        exporter, scope, done = self._running.pop(name)
        scope.cancel()
        await done.wait()
        self._account(name, exporter)
        return exporter.reached

    async def _forget_others(self, names: Iterable[str]) -> None:
        """Exports that are none of these, and not the one that stays, begin anew if they come back."""
        if self._marks:
            kept = {*names, *((self._static.name,) if self._static is not None else ())}
            await to_thread.run_sync(forget_others, self._marks, kept, limiter=self._thread)


def _content(path: Path) -> bytes | None:
    """What the file holds; None while there is none, as between the two steps of replacing it."""
    try:
        return path.read_bytes()
    except OSError:
        return None
