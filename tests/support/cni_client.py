"""A CNI client that shares nothing with the plugin: it starts the binary as a runtime would.

It keeps the result of each ADD and hands it back as `prevResult`, as the specification asks of runtimes.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

PLUGIN = (sys.executable, "-c", "from cplane.cni.main import command; command()")


@dataclass(frozen=True)
class Reply:
    """What a run of the plugin left: exit status, standard output as JSON (None: empty), standard error."""

    status: int
    document: Any
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether the verb succeeded."""
        return self.status == 0

    @property
    def code(self) -> int:
        """The error's number; 0: none."""
        return self.document["code"] if self.status else 0


@dataclass
class CniClient:
    """Runs verbs for one network against one agent socket, named in the configuration or `by_environment`."""

    socket: str
    version: str = "1.0.0"
    network: str = "cptnet"
    plugin: tuple[str, ...] = PLUGIN
    by_environment: bool = False
    results: dict[tuple[str, str], Any] = field(default_factory=dict)

    def config(self, **extra: Any) -> dict[str, Any]:
        """The network configuration with more fields."""
        base = {"cniVersion": self.version, "name": self.network, "type": "cplane-cni"}
        return {**base, **({} if self.by_environment else {"socket": self.socket}), **extra}

    def add(self, container: str, netns: str, interface: str = "eth0", args: str = "", **extra: Any) -> Reply:
        """ADD, whose result is kept."""
        reply = self.run("ADD", self.config(**extra), container=container, netns=netns, interface=interface, args=args)
        if reply.ok:
            self.results[container, interface] = reply.document
        return reply

    def delete(self, container: str, netns: str = "", interface: str = "eth0", **extra: Any) -> Reply:
        """DEL, with the earlier result where there is one; the result is forgotten when it succeeds."""
        config = self._with_result(container, interface, extra)
        reply = self.run("DEL", config, container=container, netns=netns, interface=interface)
        if reply.ok:
            self.results.pop((container, interface), None)
        return reply

    def check(self, container: str, netns: str, interface: str = "eth0", **extra: Any) -> Reply:
        """CHECK, with the earlier result where there is one."""
        config = self._with_result(container, interface, extra)
        return self.run("CHECK", config, container=container, netns=netns, interface=interface)

    def gc(self, *valid: tuple[str, str]) -> Reply:
        """GC, with the attachments that are still known."""
        listed = [{"containerID": container, "ifname": interface} for container, interface in valid]
        return self.run("GC", self.config(**{"cni.dev/valid-attachments": listed}))

    def status(self) -> Reply:
        """STATUS."""
        return self.run("STATUS", self.config())

    def run(
        self,
        verb: str,
        config: object,
        *,
        container: str = "",
        netns: str = "",
        interface: str = "",
        args: str = "",
        raw: bytes | None = None,
    ) -> Reply:
        """Any verb with any input; an empty argument is a variable that is not set."""
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": interface,
            "CNI_ARGS": args,
            "CNI_PATH": "/opt/cni/bin",
        }
        environment = {key: value for key, value in variables.items() if value}
        if self.by_environment:
            environment["CPLANE_CNI_SOCKET"] = self.socket
        environment |= {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        done = subprocess.run(
            self.plugin,
            input=json.dumps(config).encode() if raw is None else raw,
            env=environment,
            capture_output=True,
            check=False,
            timeout=60,
        )
        text = done.stdout.decode()
        return Reply(done.returncode, json.loads(text) if text else None, done.stderr.decode())

    def _with_result(self, container: str, interface: str, extra: dict[str, Any]) -> dict[str, Any]:
        held = self.results.get((container, interface))
        return self.config(**({"prevResult": held} if held else {}), **extra)
