"""How long a preview takes: a change is tried on a full node with a thousand rules, and on a million recorded flows."""

import gc
import time
from statistics import median
from typing import Final

import numpy as np
import rules
from report import Result, WrongError, at_most, number, spread
from rig import Rig

from cplane.config.documents import read_objects
from cplane.deciders.policy import ApplyPolicies
from cplane.deciders.world import World
from cplane.hubble.endpoint import EndpointMeta
from cplane.hubble.recorded import Recorded
from cplane.hubble.ring import COLUMNS
from cplane.hubble.store import FlowStore
from cplane.pb.flow import flow_pb2
from cplane.reactors.reaction import settle
from cplane.timetravel.fork import Fork
from cplane.timetravel.preview import Preview, preview
from cplane.timetravel.seen import Sight
from tests.support.scenario import JOIN as NODE
from tests.support.scenario import given, pod

FLOWS: Final = 1 << 20
_ROUNDS: Final = 5
_TCP: Final = 6
_POLICY_VERDICT: Final = 5
_BEGAN_NS: Final = 1_700_000_000_000_000_000


def measure(rig: Rig) -> Result:
    """Seconds from the change to the answer. Raises WrongError."""
    world, store = _world(), _store(chance=np.random.default_rng(23))
    gc.collect()
    gc.freeze()  # as an agent does after its start
    change = rules.deny("tried", rules.app(1), rules.app(0))
    took: dict[str, list[float]] = {"flows folded": [], "fork": [], "judged": []}
    whole: list[float] = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        sight = Sight(0, 1 << 63)
        Recorded([store]).fold(sight)
        found = sight.seen()
        folded = time.perf_counter()
        fork = Fork(world, tuple(one.text for one in read_objects(change)), ())
        forked = time.perf_counter()
        answer = preview(fork, found)
        ended = time.perf_counter()
        for name, span in zip(took, (folded - began, forked - folded, ended - forked), strict=True):
            took[name].append(span)
        whole.append(ended - began)
        _check(answer)
    for name, spans in took.items():
        rig.say(f"history: preview, {name}: {spread(spans, 's')}")
    rig.say(f"history: preview of {number(FLOWS)} flows against {rules.RULES} rules: {spread(whole, 's')}")
    return Result(name="history.preview_s", value=median(whole), unit="s", aim=at_most(2))


def _check(found: Preview) -> None:
    """The change denies what one application sent to the other, and nothing else."""
    ends = {(one.source, one.destination) for one in found.reach} | {
        (one.source, one.destination) for one in found.seen
    }
    wanted = {(f"{rules.NAMESPACE}/{rules.app(0)}", f"{rules.NAMESPACE}/{rules.app(1)}")}
    if ends != wanted or not found.denied or found.window is None or found.window.flows != FLOWS:
        raise WrongError(f"of {found.window} the change denies {found.denied}, between {sorted(ends)[:3]}")


def _world() -> World:
    """A full node, and the thousand rules."""
    node = type(NODE)(name="n1", cluster="default", ipv4_pod_cidr="10.9.0.0/24", ipv6_pod_cidr="fd00:9::/112")
    pods = (
        pod(rules.app(n), f"k8s:app={rules.app(n)}", "k8s:role=loaded", namespace=rules.NAMESPACE, ifindex=10 + n)
        for n in range(rules.ENDPOINTS)
    )
    documents = tuple(one.text for one in read_objects(rules.thousand()))
    return settle(ApplyPolicies(documents=documents), given(node, *pods))[1]


def _store(chance: np.random.Generator) -> FlowStore:
    """Verdicts on connections to every application from its neighbours, at ports that rules are about."""
    store = FlowStore(cluster="default", node="n1", seed="0" * 32, capacity=FLOWS)
    apps = rules.ENDPOINTS
    metas = np.array([store.endpoints.number(EndpointMeta(endpoint_id=1 + n, identity=256 + n)) for n in range(apps)])
    source = chance.integers(0, apps, FLOWS)
    destination = (source + 1 + chance.integers(0, 10, FLOWS)) % apps
    columns = {name: np.zeros(FLOWS, kind) for name, kind in COLUMNS.items()}
    columns["time_ns"][:] = np.arange(FLOWS) + _BEGAN_NS
    for word, ends in (("src", source), ("dst", destination)):
        columns[f"{word}_meta"][:], columns[f"{word}_identity"][:] = metas[ends], 256 + ends
    columns["dport"][:] = chance.integers(rules.OPEN.start, rules.OPEN.stop, FLOWS)
    for name, value in (
        ("protocol", _TCP),
        ("ip_version", flow_pb2.IPv4),
        ("direction", flow_pb2.INGRESS),
        ("verdict", flow_pb2.FORWARDED),
        ("type", _POLICY_VERDICT),
    ):
        columns[name][:] = value
    store.ring.append(columns)
    return store
