"""Suite policy: what a change of policy costs in a large cluster and on a full node, and how fast files are judged."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import rules
from deny import PORT_OF_PROBE
from report import CILIUM, Result, WrongError, at_least, at_most, number, spread
from rig import ROOT, Rig
from traffic import Pair, Traffic

from tests.support.agent import BIN
from tests.support.scale import Scale

_PODS: Final = Scale(identities=500, rules=50)  # ten rules about each pod that is asked about
_PROBES: Final = 200_000
_PORTS: Final = (53, 80, 443, 1500, 5432, 7777, 8080, 9050, 9090)
_INTERVAL_US: Final = 200  # between two datagrams
_PAUSE_S: Final = 0.05  # in which the probe is seen to arrive
_PATIENCE_S: Final = 600
_IMPORTS: Final = 5  # each by an agent of its own


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of the suite; what needs a node is left out without root. Raises WrongError."""
    yield _eval(rig)
    yield from _scale(rig)
    if os.geteuid() == 0:
        yield from _import(rig)
    else:
        rig.say("policy: not root, so without the import of a thousand rules")


def _scale(rig: Rig) -> Iterator[Result]:
    scale = Scale()
    rig.say(f"policy: {scale.identities:,} identities and {scale.rules:,} rules; this takes a minute or two")
    command = [sys.executable, str(Path(__file__).with_name("scale.py"))]
    command += map(str, (scale.identities, scale.rules, scale.subjects))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    if done.returncode:
        raise WrongError(f"scale.py ended with {done.returncode}:\n{done.stderr}")
    found = json.loads(done.stdout)
    shown = ", ".join(f"{name} {number(value)}" for name, value in found.items())
    rig.say(f"policy: {shown}")
    scratch = "all states from scratch"
    for what in ("identity", "rule", "endpoint"):
        for done_to in ("add", "remove"):
            name = f"{what}_{done_to}_ms"
            yield Result(
                name=f"policy.{name}",
                value=found[name],
                unit="ms",
                peer=scratch,
                peer_value=found["scratch_ms"],
                aim=at_most(1) if name == "identity_add_ms" else None,
            )
    yield Result(name="policy.entries16000_ms", value=found["entries_ms"], unit="ms")
    ratio = found["scratch_ms"] / found["identity_add_ms"]
    yield Result(name="policy.scratch_over_incremental", value=ratio, unit="ratio", peer="increments", peer_value=1.0)
    yield Result(name="policy.rss_mb", value=found["rss_mb"], unit="MB", aim=at_most(1024))


def _import(rig: Rig) -> Iterator[Result]:
    rig.say(f"policy: {rules.RULES} rules about {rules.ENDPOINTS} endpoints")
    traffic = Traffic(rig.folder)
    first_ms, all_ms = zip(*(_imported(rig, traffic) for _ in range(_IMPORTS)), strict=True)
    rig.say(f"policy: the first deny {spread(first_ms, 'ms')}; all of it {spread(all_ms, 'ms')}")
    for name, value, theirs, aim in (("first_deny", first_ms, 616.0, 200), ("all", all_ms, 1440.0, 500)):
        yield Result(
            name=f"policy.import1000_{name}_ms",
            value=median(value),
            unit="ms",
            peer=CILIUM,
            peer_value=theirs,
            aim=at_most(aim),
        )


def _imported(rig: Rig, traffic: Traffic) -> tuple[float, float]:
    """A new agent's first deny, and all: the first rule about an endpoint denies what none of a thousand allows."""
    with rig.bed("import") as bed:
        bed.agent.start()
        rules.fill(bed)
        client, server = bed.pods[rules.app(1)], bed.pods[rules.app(0)]
        with traffic.probing(Pair(client.netns, server.netns, server.ipv4), _INTERVAL_US) as prober:
            time.sleep(_PAUSE_S)  # the datagrams that arrive are what is measured against
            loaded = rules.load(bed, rules.thousand())
            time.sleep(_PAUSE_S)
            fates = prober.end()
    if [run.arrived for run in fates] != [True, False]:
        raise WrongError(f"datagrams to port {PORT_OF_PROBE.start} were not let through and then denied: {fates}")
    return (fates[1].first_ns - loaded.asked_ns) / 1e6, loaded.took_s * 1e3


def _eval(rig: Rig) -> Result:
    """`cplane policy eval` from its start to its last answer; every probe is to a pod that policies are about."""
    manifests, probes = rig.folder / "cluster.json", rig.folder / "probes.jsonl"
    manifests.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(_manifests())}))
    chance = random.Random(1)
    pods = [f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in _pods()]
    subjects = [pods[index] for index in range(_PODS.identities) if _PODS.is_subject(index)]
    with probes.open("w") as file:
        for _ in range(_PROBES):
            probe = {"from": chance.choice(pods), "to": chance.choice(subjects), "port": chance.choice(_PORTS)}
            file.write(json.dumps(probe) + "\n")
    command = [str(BIN / "cplane"), "policy", "eval", "-f", str(manifests), "--probes", str(probes)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    took_s = time.monotonic() - began
    answers = done.stdout.splitlines()
    if done.returncode or len(answers) != _PROBES:
        raise WrongError(f"policy eval ended with {done.returncode} and {len(answers)} answers: {done.stderr[:500]}")
    allowed = sum('"verdict":"ALLOWED"' in one.replace(" ", "")[:30] for one in answers)
    rig.say(f"policy: {_PROBES:,} probes between {len(pods):,} pods in {took_s:.1f} s; {allowed:,} are allowed")
    return Result(name="policy.eval_probes_per_s", value=_PROBES / took_s, unit="1/s", aim=at_least(20_000))


def _manifests() -> Iterator[dict[str, Any]]:
    yield from _pods()
    for index in range(_PODS.rules):
        yield _PODS.document(index)


def _pods() -> Iterator[dict[str, Any]]:
    for index in range(_PODS.identities):
        labels = {label.key: label.value for label in _PODS.labels(index) if not label.key.startswith("io.")}
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{index}", "namespace": f"ns-{index % _PODS.namespaces}", "labels": labels},
            "spec": {"containers": []},
            "status": {"podIP": f"10.{2 + (index >> 16)}.{index >> 8 & 255}.{index & 255}"},
        }
