"""How an agent ends."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cplane.agent import memory, wire
from cplane.agent.__main__ import FAILED, main
from cplane.config.model import AgentConfig
from cplane.errors import Unavailable
from datapath.errors import Corrupt


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "give_back", lambda: None)
    monkeypatch.setattr(memory, "starting", lambda: None)
    monkeypatch.setattr("cplane.agent.__main__.configure", lambda *_: None)


@pytest.mark.parametrize("error", [Unavailable("the socket is taken"), Corrupt("the pins are gone")])
@pytest.mark.parametrize("in_a_task", [False, True])
def test_why_it_cannot_go_on_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, in_a_task: bool
) -> None:
    async def run(_config: AgentConfig) -> None:
        raise ExceptionGroup("in a task", [error]) if in_a_task else error

    monkeypatch.setattr(wire, "run", run)
    runner = CliRunner(env={"CPLANE_TEST_EFFORT": None})  # an agent refuses variables that it does not know
    done = runner.invoke(main, ["--state-dir", str(tmp_path), "--run-dir", str(tmp_path)])
    assert (done.exit_code, done.stderr) == (FAILED, f"cplane-agent: {error}\n")
    assert isinstance(done.exception, SystemExit)
