"""Exports at work: what comes is written, and what is not is counted."""

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from cplane.hubble.exporter import run as exporting
from cplane.hubble.exporter.config import BadExport, Export
from cplane.hubble.exporter.run import Exports
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from tests.support.flows import START_NS, World, records, store_of

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_REST_S", 0.01)
    monkeypatch.setattr(exporting, "_WATCH_S", 0.01)


@asynccontextmanager
async def running(
    store: FlowStore,
    *,
    static: Export | None = None,
    watched: str = "",
    now_ns: Callable[[], int] = lambda: START_NS,
    marks: str = "",
) -> AsyncIterator[Exports]:
    exports = Exports(store, now_ns, static=static, watched=watched, marks=marks)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(exports.run)
            await anyio.wait_all_tasks_blocked()
            yield exports
            group.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # files say nothing when they change
        await anyio.sleep(0.005)


def come(store: FlowStore, *rows: dict[str, object]) -> None:
    Parser(store, World()).ingest(records(*rows), START_NS)
    store.changed.notify()


def ports(path: Path) -> list[int]:
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["flow"]["l4"]["TCP"]["source_port"] for line in lines if "flow" in line]


def samples(exports: Exports) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in exports.metrics()
        for sample in family.samples
    }


def flow_logs(path: Path, **exports: str) -> None:
    """The file is replaced in one step, as Kubernetes does it."""
    entries = [{"name": name, "filePath": target} for name, target in exports.items()]
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"flowLogs": entries}))
    os.replace(new, path)


async def test_flows_are_written_as_they_come_and_those_that_are_wanted(tmp_path: Path) -> None:
    store, path = store_of(records({"sport": 1})), tmp_path / "flows.log"
    wanted = flow_pb2.FlowFilter(destination_port=["443"]).SerializeToString()
    async with running(store, static=Export(name="static", path=str(path), include=(wanted,))) as exports:
        come(store, {"sport": 2, "dport": 443}, {"sport": 3, "dport": 80}, {"sport": 4, "dport": 443})
        await until(lambda: len(ports(path)) == 2)
        come(store, {"sport": 5, "dport": 443})
        await until(lambda: len(ports(path)) == 3)
        await until(lambda: samples(exports)["cplane_export_flows_total", "static"] == 3)
    assert ports(path) == [2, 4, 5]


async def test_fields_can_be_chosen(tmp_path: Path) -> None:
    store, path = store_of(), tmp_path / "flows.log"
    async with running(store, static=Export(name="static", path=str(path), fields=("verdict",))):
        come(store, {})
        await until(lambda: path.exists() and path.stat().st_size > 0)
    assert json.loads(path.read_text())["flow"] == {"verdict": "FORWARDED"}


async def test_without_room_flows_are_counted_and_it_goes_on_when_there_is_some(tmp_path: Path) -> None:
    store, path = store_of(), tmp_path / "folder" / "flows.log"
    (tmp_path / "folder").write_text("in the way")
    async with running(store, static=Export(name="static", path=str(path))) as exports:
        come(store, {"sport": 1}, {"sport": 2})
        await until(lambda: samples(exports).get(("cplane_export_lost_flows_total", "static", "not written")) == 2)
        (tmp_path / "folder").unlink()
        come(store, {"sport": 3})
        await until(lambda: samples(exports).get(("cplane_export_flows_total", "static")) == 1)
        assert ports(path) == [3]


async def test_a_full_device_is_not_the_end(tmp_path: Path) -> None:
    store, path = store_of(), tmp_path / "flows.log"
    path.symlink_to("/dev/full")
    async with running(store, static=Export(name="static", path=str(path))) as exports:
        come(store, {"sport": 1})
        await until(lambda: samples(exports).get(("cplane_export_lost_flows_total", "static", "not written")) == 1)
        path.unlink()
        come(store, {"sport": 2})
        await until(lambda: ports(path) == [2])


async def test_what_was_overwritten_before_it_was_read_is_told_and_counted(tmp_path: Path) -> None:
    store, path = store_of(capacity=4), tmp_path / "flows.log"
    async with running(store, static=Export(name="static", path=str(path))) as exports:
        come(store, *({"sport": number} for number in range(1, 11)))
        await until(lambda: len(ports(path)) == 4)
        assert samples(exports)["cplane_export_lost_flows_total", "static", "missed"] == 6
    assert json.loads(path.read_text().splitlines()[0])["lost_events"]["num_events_lost"] == "6"
    assert ports(path) == [7, 8, 9, 10]


async def test_a_change_of_one_export_loses_no_flow_of_any(tmp_path: Path) -> None:
    store, config = store_of(capacity=1 << 14), tmp_path / "flowlogs.yaml"
    kept, first, second = tmp_path / "kept.log", tmp_path / "first.log", tmp_path / "second.log"
    flow_logs(config, kept=str(kept), moved=str(first))
    async with running(store, watched=str(config)) as exports:
        await until(lambda: ("hubble_dynamic_exporter_up", "moved") in samples(exports))
        for number in range(1, 201):
            come(store, {"sport": number})
            if number == 100:
                flow_logs(config, kept=str(kept), moved=str(second))
            await anyio.sleep(0.001)
        await until(lambda: len(ports(kept)) == 200 and len(ports(first)) + len(ports(second)) == 200)
        assert samples(exports)["hubble_dynamic_exporter_reconfigurations_total", "update"] == 1
        flow_logs(config, kept=str(kept))
        await until(lambda: ("hubble_dynamic_exporter_reconfigurations_total", "remove") in samples(exports))
        assert samples(exports)["hubble_dynamic_exporter_exporters_total", "active"] == 1
    assert ports(kept) == list(range(1, 201))
    assert ports(first) + ports(second) == list(range(1, 201)) and ports(second)


async def test_a_file_that_cannot_be_used_changes_nothing_and_says_so(tmp_path: Path) -> None:
    store, config, path = store_of(), tmp_path / "flowlogs.yaml", tmp_path / "a.log"
    async with running(store, watched=str(config)) as exports:
        flow_logs(config, a=str(path))
        await until(lambda: ("hubble_dynamic_exporter_up", "a") in samples(exports))
        config.write_text("flowLogs: [{name: a, filePath: /b, includeFilters: [{source_ip: [nonsense]}]}]")
        await until(lambda: samples(exports)["cplane_export_config_refused",] == 1)
        assert "nonsense" in exports.failure
        config.unlink()
        come(store, {"sport": 7})
        await until(lambda: ports(path) == [7])


async def test_an_export_ends_when_its_time_has_come(tmp_path: Path) -> None:
    store, path, now = store_of(), tmp_path / "flows.log", START_NS
    config = tmp_path / "flowlogs.yaml"
    config.write_text(f"flowLogs: [{{name: a, filePath: {path}, end: '2024-07-24T10:02:12Z'}}]")
    async with running(store, watched=str(config), now_ns=lambda: now) as exports:
        await until(lambda: samples(exports).get(("hubble_dynamic_exporter_up", "a")) == 1)
        come(store, {"sport": 1})
        await until(lambda: ports(path) == [1])
        now += 10**9
        assert samples(exports)["hubble_dynamic_exporter_up", "a"] == 0
        assert samples(exports)["hubble_dynamic_exporter_exporters_total", "inactive"] == 1
        await anyio.sleep(0.1)
        come(store, {"sport": 2})
        await anyio.sleep(0.1)
    assert ports(path) == [1]


def test_an_export_with_a_filter_that_cannot_be_evaluated_is_refused(tmp_path: Path) -> None:
    wrong = flow_pb2.FlowFilter(source_ip=["nonsense"]).SerializeToString()
    export = Export(name="static", path=str(tmp_path / "a"), include=(wrong,))
    with pytest.raises(BadExport, match="export static: filter source_ip: 'nonsense' is neither"):
        Exports(store_of(), lambda: 0, static=export, watched="")


async def test_what_is_there_when_it_is_told_to_stop_is_written_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_REST_S", 60)
    store, path = store_of(capacity=1 << 14), tmp_path / "flows.log"
    async with running(store, static=Export(name="static", path=str(path))):
        come(store, {"sport": 1})
        await anyio.wait_all_tasks_blocked()
        come(store, *({"sport": number} for number in range(2, 5001)))
    assert ports(path) == list(range(1, 5001))
