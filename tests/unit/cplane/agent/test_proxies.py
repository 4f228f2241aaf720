"""What an agent says of its proxies."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio import to_thread

from cplane.agent.proxies import NoProxy, Proxies
from cplane.api.ports import ProxyState
from cplane.cli.status import _status_rows
from cplane.config.model import AgentConfig
from cplane.config.proxy import ProxyConfig
from cplane.domain.policy.redirection import Redirection
from cplane.domain.verdict import Direction
from cplane.errors import Unavailable
from cplane.pb.cplane.admin import v1 as pb
from cplane.projections.redirects import RedirectKey

pytestmark = pytest.mark.anyio


def proxies(folder: Path, *parsers: str) -> Proxies:
    """Of an agent that may run none."""
    config = AgentConfig(node_name="node", run_dir=str(folder), proxy=ProxyConfig(enabled=False))
    made = Proxies(config, lambda *_: None, prepare=lambda: None)
    made.upsert(
        {RedirectKey(10_000 + n): Redirection(Direction.EGRESS, 6, 80, one, ()) for n, one in enumerate(parsers)}
    )
    return made


async def test_proxies_that_nothing_needs_are_absent(tmp_path: Path) -> None:
    found = await proxies(tmp_path).states()
    assert found == [ProxyState(kind, 0, False, 0, 0) for kind in ("envoy", "dns", "kafka")]


async def test_redirects_count_for_the_proxy_that_reads_them(tmp_path: Path) -> None:
    found = await proxies(tmp_path, "http", "tls", "kafka", "r2d2").states()
    assert [(one.kind, one.redirects, one.failing) for one in found] == [
        ("envoy", 2, 2),
        ("dns", 0, 0),
        ("kafka", 1, 1),
        ("other", 1, 1),
    ]


async def test_a_process_that_has_gone_does_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "proxy"
    folder.mkdir()
    (folder / "dns.pid").write_bytes(msgspec.json.encode({"pid": 2**22 + 1, "started": 1, "command": ["x"]}))
    assert {one.pid for one in await proxies(tmp_path).states()} == {0}


async def test_a_process_that_an_earlier_agent_has_left_runs_without_this_one(tmp_path: Path) -> None:
    folder = tmp_path / "proxy"
    folder.mkdir()
    async with await anyio.open_process(["sleep", "60"]) as process:
        try:
            fields = (Path("/proc") / str(process.pid) / "stat").read_text().rpartition(")")[2].split()
            made = {"pid": process.pid, "started": int(fields[19]), "command": ["sleep", "60"]}
            (folder / "kafka.pid").write_bytes(msgspec.json.encode(made))
            found = await proxies(tmp_path).states()
            assert found[2] == ProxyState("kafka", process.pid, False, 0, 0)
        finally:
            process.kill()


class Only:
    """The back end of one proxy, which is told and does nothing."""

    is_connected = False

    async def apply(self, put: Mapping[int, Redirection], gone: Collection[int]) -> None:
        pass

    async def run(self) -> None:
        await anyio.sleep_forever()

    def problems(self) -> Mapping[int, str]:
        return {}

    async def connections(self) -> int | None:
        return None


class Counted(Proxies):
    """Counts the back ends that are made, which takes a moment."""

    made = 0

    def _envoy(self) -> Only:
        self.made += 1
        time.sleep(0.05)
        return Only()


async def test_rows_that_come_while_what_was_left_is_adopted_find_the_same_back_end(tmp_path: Path) -> None:
    config = AgentConfig(node_name="node", run_dir=str(tmp_path))
    made = Counted(config, lambda *_: None, prepare=lambda: None)
    redirection = Redirection(Direction.EGRESS, 6, 80, "http", ())
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.run)
        async with anyio.create_task_group() as together:
            for port in (10_000, 10_001):
                together.start_soon(to_thread.run_sync, made.upsert, {RedirectKey(port): redirection})
        tasks.cancel_scope.cancel()
    assert (made.made, len(made.dump())) == (1, 2)


@pytest.mark.parametrize("parser", ["http", "kafka"])
async def test_a_folder_that_cannot_be_made_is_no_end_of_the_agent(tmp_path: Path, parser: str) -> None:
    (tmp_path / "proxy").write_text("in its place")
    made = Counted(AgentConfig(node_name="node", run_dir=str(tmp_path)), lambda *_: None, prepare=lambda: None)
    rows = {RedirectKey(10_000): Redirection(Direction.EGRESS, 6, 80, parser, ())}
    async with anyio.create_task_group() as tasks:
        await tasks.start(made.run)
        with pytest.raises(NoProxy) as refused:
            await to_thread.run_sync(made.upsert, rows)
        assert isinstance(refused.value, Unavailable)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("proxy", "line"),
    [
        (pb.ProxyStatus(kind="dns"), "dns absent"),
        (pb.ProxyStatus(kind="dns", redirects=1, failing=1), "dns absent (1 redirect, 1 not in force)"),
        (
            pb.ProxyStatus(kind="envoy", pid=7, connected=True, redirects=2, connections=1),
            "envoy runs (pid 7, 2 redirects, 1 connection)",
        ),
        (
            pb.ProxyStatus(kind="kafka", pid=7, redirects=2, failing=1),
            "kafka runs without the agent (pid 7, 2 redirects, 1 not in force)",
        ),
    ],
)
def test_a_line_says_it(proxy: pb.ProxyStatus, line: str) -> None:
    assert dict(_status_rows(pb.GetStatusResponse(proxies=[proxy])))["proxies"] == line
