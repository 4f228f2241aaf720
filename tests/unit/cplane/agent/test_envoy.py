"""Envoy as a back end of redirections."""

from pathlib import Path

import anyio
import pytest

from cplane.agent import envoy
from cplane.proxy.envoy import EnvoyOptions
from cplane.proxy.process import Program
from cplane.telemetry.log import Line
from cplane.xds.secrets import Files

pytestmark = pytest.mark.anyio


async def test_a_bootstrap_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "proxy"
    folder.write_text("in its place")
    told: list[Line] = []

    class MakesRoom:
        def warning(self, entry: Line) -> None:
            told.append(entry)
            if len(told) == 2:
                folder.unlink()

    monkeypatch.setattr(envoy, "RETRY_S", 0.0)
    monkeypatch.setattr(envoy, "log", MakesRoom())
    with anyio.fail_after(5):
        made = await envoy.written(EnvoyOptions(folder, folder / "xds.sock", "node"))
    assert [one.fields["kind"] for one in told] == ["envoy", "envoy"]
    assert [str(path) for path in folder.glob("*.json")] == [one for one in made.command if one.endswith(".json")]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # grpclib knows no other
async def test_a_folder_that_was_removed_ends_no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "proxy"
    told: list[Line] = []
    served = anyio.Event()

    class Makes:
        def warning(self, entry: Line) -> None:
            told.append(entry)
            folder.mkdir()

    async def written(_options: EnvoyOptions) -> Program:
        served.set()
        await anyio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(envoy, "RETRY_S", 0.0)
    monkeypatch.setattr(envoy, "log", Makes())
    monkeypatch.setattr(envoy, "written", written)
    made = envoy.Envoy(envoy.Settings(folder, Files(tmp_path), "node"), lambda _: None)
    async with anyio.create_task_group() as group:
        group.start_soon(made.run)
        with anyio.fail_after(5):
            await served.wait()
        group.cancel_scope.cancel()
    assert len(told) == 1
    assert str(folder / "xds.sock") in told[0].fields["error"]
