"""The agent's flows: those that an earlier agent saw, a place for those to come, and an archive for the oldest."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
from anyio import to_thread

from cplane.config.model import AgentConfig
from cplane.hubble.archive.closing import Closing
from cplane.hubble.archive.folder import Archive, open_archive
from cplane.hubble.kept import boot_id, open_store
from cplane.hubble.store import FlowStore
from cplane.telemetry.clock import SystemClock


class History(NamedTuple):
    """Where flows are; `closing` has a task to `run`, which brings them into the archive."""

    store: FlowStore
    archive: Archive | None
    closing: Closing | None


@asynccontextmanager
async def flow_history(config: AgentConfig, clock: SystemClock) -> AsyncIterator[History]:
    """The store of flows and the archive; what is to be kept is on disk afterwards.

    Raises FileInUse, NoParquet, ArchiveUnavailable.
    """
    archive = await to_thread.run_sync(_open_archive, config)
    try:
        store = await to_thread.run_sync(_open_store, config, clock, archive.stop if archive is not None else 0)
        closing = Closing(store, archive, clock.now_ns) if archive is not None else None
        try:
            yield History(store, archive, closing)
        finally:
            with anyio.CancelScope(shield=True):
                if closing is not None and (store.keeper is None or not store.keeper.works):
                    await closing.finish()  # flows in memory have no other way
                if store.keeper is not None:
                    await to_thread.run_sync(store.keeper.close)
    finally:
        if archive is not None:
            archive.close()


def _open_archive(config: AgentConfig) -> Archive | None:
    given = config.hubble
    if not given.archive_path:
        return None
    return open_archive(given.archive_path, max_mb=given.archive_max_mb, max_hours=given.archive_max_hours)


def _open_store(config: AgentConfig, clock: SystemClock, start: int) -> FlowStore:
    return open_store(
        config.ring_path,
        cluster=config.cluster_name,
        node=config.node_name,
        capacity=config.hubble.ring_records,
        new_id=clock.new_id(),
        boot=boot_id(),
        start=start,
    )
