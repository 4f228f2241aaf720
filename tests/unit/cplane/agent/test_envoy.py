"""Envoy as a back end of redirections."""

from pathlib import Path

import anyio
import pytest

from cplane.agent import envoy
from cplane.proxy.envoy import EnvoyOptions
from cplane.telemetry.log import Line

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
