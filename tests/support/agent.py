"""`cplane-agent` as a process, with folders, pins and, if asked for, a network namespace of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cplane.proxy.envoy import remove_memory
from datapath.kernel.datapath import remove
from tests.support.cgroup import SubGroup
from tests.support.netns import Namespace

BIN = Path(sys.executable).parent
START_S = 60.0  # the first start compiles the programs, on a machine that may be busy


class AgentFailed(AssertionError):
    """The agent did not do what it was started for; its own words follow."""


class Agent:
    """One agent that can be started, killed and started again over the same state.

    Everything it owns is under `folder`, except its pins, which are in `/sys/fs/bpf/<name>`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        node: Namespace | None = None,
        datapath: str = "kernel",
        options: tuple[str, ...] = (),
        group: SubGroup | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.name, self.node, self.group = folder, name, node, group
        self.state, self.run_dir = folder / "state", folder / "run"
        self.bpf_root = Path("/sys/fs/bpf") / name
        self.output = folder / "agent.log"
        self.options = (
            *("--datapath", datapath, "--node-name", "node", "--log-format", "json"),
            *("--state-dir", str(self.state), "--run-dir", str(self.run_dir), "--bpf-root", str(self.bpf_root)),
            *options,
        )
        self._prefix = prefix
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self.process is not None, "the agent was never started"
        return self.process.pid

    @property
    def environment(self) -> dict[str, str]:
        """What commands need to find this agent, and nothing of cplane's that the caller happens to have."""
        own = {
            "CPLANE_SERVER": f"unix://{self.run_dir}/admin.sock",
            "CPLANE_CNI_SOCKET": f"{self.run_dir}/cni.sock",
            "HUBBLE_SERVER": f"unix://{self.run_dir}/hubble.sock",
        }
        others = {name: value for name, value in os.environ.items() if not name.startswith(("CPLANE_", "HUBBLE_"))}
        return {**others, **own, "PATH": f"{BIN}:{os.environ.get('PATH', '')}"}

    @property
    def command(self) -> list[str]:
        """How it is started."""
        enter = ["nsenter", f"--net={self.node.path}", "--"] if self.node else []
        return [*enter, *self._prefix, str(BIN / "cplane-agent"), *self.options]

    def start(self, *, wait: bool = True) -> float:
        """The agent runs and, with `wait`, serves and is in sync. Returns the seconds that this took."""
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with self.output.open("ab") as output:
            offset = output.tell()
            environment = {k: v for k, v in self.environment.items() if not k.startswith("CPLANE_")}
            self.process = subprocess.Popen(
                self.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if self.group is not None:
            self.group.add(self.process.pid)
        if wait:
            self._until_started(offset)
        return time.monotonic() - began

    def _until_started(self, offset: int) -> None:
        deadline = time.monotonic() + START_S
        while b'"event":"started"' not in self.told(offset).replace(b'": "', b'":"'):
            if self.process is None or self.process.poll() is not None:
                raise AgentFailed(f"the agent ended before it served:\n{self.told(offset).decode()}")
            if time.monotonic() > deadline:
                raise AgentFailed(f"the agent did not serve within {START_S:g} s:\n{self.told(offset).decode()}")
            time.sleep(0.005)  # another process's progress: there is nothing to wait on but its log

    def told(self, offset: int = 0) -> bytes:
        """What it wrote on its standard output and error."""
        with self.output.open("rb") as file:
            file.seek(offset)
            return file.read()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the agent's own environment, to its end."""
        return subprocess.run(
            command, env=self.environment_of_agent(), capture_output=True, text=True, timeout=START_S, check=False
        )

    def fails_to_start(self) -> tuple[int, str]:
        """Exit status and words of a start that is refused."""
        done = self.run(*self.command)
        return done.returncode, done.stderr

    def environment_of_agent(self) -> dict[str, str]:
        """The agent's own environment: it takes its settings from flags alone."""
        return {name: value for name, value in self.environment.items() if not name.startswith("CPLANE_")}

    def kill(self) -> None:
        """SIGKILL, and the process is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self.process is not None, "the agent was never started"
        self.process.send_signal(number)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AgentFailed(f"the agent did not end within 20 s:\n{self.told().decode()[-4000:]}") from None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def cplane(self, *arguments: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`cplane` asks this agent; with `check` it must succeed."""
        return self._call("cplane", arguments, given, check=check)

    def hubble(self, *arguments: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`hubble` asks this agent; with `check` it must succeed."""
        return self._call("hubble", arguments, given, check=check)

    def ask(self, *arguments: str) -> Any:  # Any: JSON
        """What `cplane … -o json` says."""
        return json.loads(self.cplane(*arguments, "-o", "json").stdout)

    def flows(self, *arguments: str) -> list[dict[str, Any]]:  # Any: JSON
        """The flows that `hubble observe … -o json` shows."""
        lines = self.hubble("observe", *arguments, "-o", "json").stdout.splitlines()
        return [answer["flow"] for answer in map(json.loads, lines) if "flow" in answer]

    def _call(
        self, name: str, arguments: tuple[str, ...], given: str | None, *, check: bool
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(BIN / name), *arguments],
            env=self.environment,
            input=given if given is not None else "",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise AgentFailed(
                f"{name} {' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def proxies(self) -> dict[str, int]:
        """The proxies that were started, and the process ids that they have, or had last."""
        files = (self.run_dir / "proxy").glob("*.pid")
        return {path.stem: int(json.loads(path.read_text())["pid"]) for path in files}

    def end_proxy(self, kind: str) -> None:
        """SIGKILL for a proxy, if it is alive."""
        with suppress(ProcessLookupError, KeyError):
            os.kill(self.proxies()[kind], signal.SIGKILL)

    def remove(self) -> None:
        """No process and no pin of it is left. Idempotent; its folder is the caller's."""
        if self.alive:
            assert self.process is not None
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for kind in self.proxies():
            self.end_proxy(kind)
        remove_memory(self.run_dir / "proxy")
        if os.geteuid() == 0:
            remove(self.bpf_root)


@contextmanager
def running(folder: Path, name: str, **settings: Any) -> Iterator[Agent]:  # Any: as Agent takes them
    """A started agent, gone afterwards with all of its pins."""
    agent = Agent(folder, name, **settings)
    try:
        agent.start()
        yield agent
    finally:
        agent.remove()


def differences(agent: Agent) -> Mapping[str, list[Any]]:  # Any: JSON
    """Table → rows that are wanted and not there, or there and not wanted; empty when all tables are as they should."""
    found = {}
    for table in (("policy", "list"), ("ipcache", "list"), ("lxc", "list"), ("devices", "list")):
        rows = [row for row in agent.ask("bpf", *table)["rows"] if row["difference"] != "none"]
        if rows:
            found[table[0]] = rows
    return found
