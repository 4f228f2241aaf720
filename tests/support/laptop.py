"""What tests do with an agent on the memory datapath: pods that nobody runs, and a log that somebody takes away."""

import shutil
from pathlib import Path

from tests.support.agent import Agent
from tests.support.cni_client import CniClient
from tests.support.pods import PLUGIN


def add_pods(agent: Agent, *names: str) -> None:
    """Pods of the namespace demo, labelled `app` with their names."""
    runtime = CniClient(f"{agent.run_dir}/cni.sock", network="cplane", plugin=PLUGIN, by_environment=True)
    for name in names:
        told = {"cplane": {"labels": {"app": name}, "namespace": "demo", "pod": name}}
        config = runtime.config(args=told)
        assert runtime.run("ADD", config, container=name, netns=f"/run/netns/nobody-{name}", interface="eth0").ok


def copy_of(log: Path, to: Path) -> Path:
    """What somebody takes away who copies a log that is in use."""
    for name in (log.name, f"{log.name}-wal"):
        if (log.parent / name).exists():
            shutil.copy(log.parent / name, to / name)
    return to / log.name
