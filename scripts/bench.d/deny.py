"""How long a denied connection lives on: from the request that denies it to the first packet that is dropped."""

import time

import anyio
import rules
from fates import Change, Latencies, latencies
from rig import Bed
from traffic import Pair, Traffic

from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import ClientChannel
from tests.support import asking

_INTERVAL_US = 200  # between two datagrams
_PAUSE_S = 0.02  # in which nothing changes
_WAIT_NS = 10_000_000_000
_NAME = "deny"
_POLICY_DENY = 181  # flow.DropReason.POLICY_DENY
_REF = pb.PolicyRef(kind="CiliumNetworkPolicy", namespace=rules.NAMESPACE, name=_NAME)


PORT_OF_PROBE = range(9000, 9001)


def measure(bed: Bed, traffic: Traffic, pair: Pair, repetitions: int) -> Latencies:
    """Denies and allows again what flows from the pair's client to its server, `app1` and `app0`. Raises WrongError."""
    with traffic.probing(pair, _INTERVAL_US) as prober:
        changes = asking.ask(bed.agent, lambda channel: _switch(channel, repetitions))
        runs = prober.end()
    _must_be_seen(bed)
    return latencies(changes, runs)


async def _switch(channel: ClientChannel, repetitions: int) -> list[Change]:
    policies, status = pb.PolicyServiceStub(channel), pb.StatusServiceStub(channel)
    document = rules.deny(_NAME, rules.app(0), rules.app(1))
    changes = []
    for _ in range(repetitions):
        await anyio.sleep(_PAUSE_S)
        changes.append(Change(time.monotonic_ns(), arriving=False))
        applied = await policies.apply(pb.ApplyPolicyRequest(documents=document))
        await status.wait(pb.WaitRequest(position=applied.position, timeout_ns=_WAIT_NS))
        await anyio.sleep(_PAUSE_S)
        changes.append(Change(time.monotonic_ns(), arriving=True))
        deleted = await policies.delete(pb.DeletePolicyRequest(refs=[_REF]))
        await status.wait(pb.WaitRequest(position=deleted.position, timeout_ns=_WAIT_NS))
    await anyio.sleep(_PAUSE_S)
    return changes


def _must_be_seen(bed: Bed) -> None:
    """The drops are flows that the observer shows."""

    def seen() -> bool:
        return any(
            flow.source.pod_name == rules.app(1)
            and flow.destination.pod_name == rules.app(0)
            and flow.drop_reason_desc == _POLICY_DENY
            for flow in asking.flows(bed.agent)
        )

    asking.until(seen, "the observer shows that the probe was denied")
