"""How long a pod waits for its network: the plugin's process, started as a runtime starts it, from start to end."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple

from report import CILIUM, Result, WrongError, at_most, spread
from rig import Bed, Place, Rig

from tests.support.pods import installed

REPETITIONS = 25


class Durations(NamedTuple):
    """Milliseconds of each ADD and DEL."""

    add_ms: list[float]
    del_ms: list[float]


def measure(rig: Rig, bed: Bed) -> Iterator[Result]:
    """Pods come one after another beside those that the bed has, and go likewise. Raises WrongError.

    Their namespaces go last: to take one apart the kernel holds the lock of all devices, again and again, for longer
    than an ADD takes.
    """
    found = Durations([], [])
    plugin = installed(bed.agent.folder / "bin")
    with ExitStack() as places:
        pods = [places.enter_context(rig.place(f"pod{index}")) for index in range(REPETITIONS)]
        for pod in pods:
            added, document = _run(bed, plugin, "ADD", pod)
            if not document["ips"]:
                raise WrongError(f"ADD gave no address: {document}")
            found.add_ms.append(added)
        found.del_ms.extend(_run(bed, plugin, "DEL", pod)[0] for pod in pods)
    rig.say(f"net: CNI ADD {spread(found.add_ms, 'ms')}; DEL {spread(found.del_ms, 'ms')}")
    for name, values, theirs, aim in (
        ("net.cni_add_ms", found.add_ms, 118.0, at_most(60)),
        ("net.cni_del_ms", found.del_ms, 73.0, None),
    ):
        yield Result(name=name, value=median(values), unit="ms", peer=CILIUM, peer_value=theirs, aim=aim)


def _run(bed: Bed, plugin: tuple[str, ...], verb: str, place: Place) -> tuple[float, dict[str, list[object]]]:
    """Milliseconds from the start of the process to its end, and what it printed."""
    config = {
        "cniVersion": "1.0.0",
        "name": "cplane",
        "type": "cplane-cni",
        "args": {"cplane": {"labels": {"app": "come-and-go"}, "namespace": "demo", "pod": place.name}},
    }
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": place.name,
        "CNI_NETNS": place.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CPLANE_CNI_SOCKET": f"{bed.agent.run_dir}/cni.sock",
        "PATH": os.environ["PATH"],
    }
    given = json.dumps(config).encode()
    began = time.perf_counter()
    done = subprocess.run(plugin, input=given, env=environment, capture_output=True, timeout=30, check=False)
    took_ms = (time.perf_counter() - began) * 1000
    if done.returncode:
        raise WrongError(f"{verb} {place.name}: {done.stdout.decode()} {done.stderr.decode()}")
    return took_ms, json.loads(done.stdout) if done.stdout else {}
