"""Suite lb: what services cost a connection, and how fast they are known.

Connections are opened and closed by a client in one pod to a server in another. Through a service the client is in the
cgroup whose sockets are served; the peer asks the server itself, and no program has to do with its sockets. Rounds
alternate, and each gives a ratio.
"""

import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from statistics import median
from typing import Final

import lb_packets
import many_services
from forward import plain, ratios_of, widen
from report import Aim, Result, WrongError, at_least, at_most, ratio_result, spread
from rig import Bed, Rig
from traffic import Pair, Traffic

from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import ClientChannel
from tests.support import asking
from tests.support.agent import BIN
from tests.support.cgroup import subgroup

_ROUNDS: Final = 15
_ROUND_MS: Final = 400
_PORTS: Final = range(5000, 5000 + 3 * _ROUNDS)  # a port for each round: none meets what another left
_VIP: Final = "10.96.255.1"
_MANY: Final = 10_000
_BACKENDS: Final = 10  # of each of the many
_UPSERTS: Final = 50
_RESTARTS: Final = 3
_CHAINED: Final = (10, 1000, 5000)
_DIRECT: Final = "without a service"
_WAIT_NS: Final = 60_000_000_000
_PATIENCE_S: Final = 120


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of the suite. Raises WrongError."""
    traffic = Traffic(rig.folder)
    with subgroup(f"{rig.name}-lb") as group:
        if group.path is None:
            raise WrongError("there is no cgroup2 hierarchy that can be written: sockets cannot be served")
        with rig.bed("lb", "--lb-cgroup", str(group.path)) as bed:
            bed.agent.start()
            client, server = bed.add("client"), bed.add("server")
            for pod in (client, server):
                widen(pod.netns)
            direct = Pair(client.netns, server.netns, server.ipv4)
            served = Pair(client.netns, server.netns, _VIP, group.path)
            ports = iter(_PORTS)
            asking.ask(bed.agent, lambda channel: _upsert(channel, _service(server.ipv4)))
            aim = at_least(0.92)
            yield _connects(rig, traffic, direct, served, ports, "lb.connect_ratio_1", aim)
            yield _upserts(rig, bed, "lb.upsert_ms_alone", None)
            yield _load(rig, bed)
            yield _connects(rig, traffic, direct, served, ports, "lb.connect_ratio_10k", aim)
            yield _upserts(rig, bed, "lb.upsert_ms", at_most(2))
            yield _restart(rig, bed)
    yield from lb_packets.measure(rig)
    yield from _chains(rig, traffic)


def _connects(
    rig: Rig, traffic: Traffic, direct: Pair, served: Pair, ports: Iterator[int], name: str, aim: Aim | None = None
) -> Result:
    """Connections a second through the service, by those to the server itself."""
    rates: dict[Pair, list[float]] = {direct: [], served: []}
    for pair in rates:
        traffic.rate("connect", pair, _PORTS[-1], 100)
    for number in range(_ROUNDS):
        port = next(ports)
        for pair in (direct, served) if number % 2 else (served, direct):
            rates[pair].append(traffic.rate("connect", pair, port, _ROUND_MS))
    ratios = ratios_of(rates[served], rates[direct])
    rig.say(f"{name}: {spread(ratios, 'of direct')}; direct {spread(rates[direct], 'connections/s')}")
    return ratio_result(name, ratios, _DIRECT, aim)


def _service(server: str) -> bytes:
    """The service that connections are opened to: as many ports as there are rounds."""
    ports = [(f"p{port}", port) for port in _PORTS]
    return many_services.described("measured", _VIP, ports, [(server, name, port) for name, port in ports])


async def _upsert(channel: ClientChannel, described: bytes) -> float:
    """Milliseconds from the request to the answer that the kernel has it."""
    began = time.perf_counter()
    applied = await pb.ServiceServiceStub(channel).apply(pb.ApplyServicesRequest(described=described))
    if applied.applied < applied.position:
        await pb.StatusServiceStub(channel).wait(pb.WaitRequest(position=applied.position, timeout_ns=_WAIT_NS))
    return (time.perf_counter() - began) * 1e3


def _upserts(rig: Rig, bed: Bed, name: str, aim: Aim | None) -> Result:
    """A service gets another set of backends, again and again."""

    async def change(channel: ClientChannel) -> list[float]:
        taken = []
        for number in range(_UPSERTS):
            backends = [(f"10.99.{number}.{one}", "", 8080) for one in range(1, _BACKENDS + 1)]
            described = many_services.described("changing", "10.96.255.2", [("", 80)], backends)
            taken.append(await _upsert(channel, described))
        return taken

    taken = asking.ask(bed.agent, change)
    rig.say(f"{name}: {spread(taken, 'ms')}")
    return Result(name=name, value=median(taken), unit="ms", aim=aim)


def _load(rig: Rig, bed: Bed) -> Result:
    """`cplane service apply` from its start to its end, when all is in the kernel."""
    file = rig.folder / "services.yaml"
    file.write_text(many_services.manifests(_MANY, _BACKENDS))
    size_mb = file.stat().st_size / 1e6
    command = [str(BIN / "cplane"), "--server", f"unix://{bed.agent.run_dir}/admin.sock"]
    command += ["service", "apply", "-f", str(file), "--wait"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    took_s = time.monotonic() - began
    if done.returncode or done.stdout.count("\n") < _MANY:
        raise WrongError(f"service apply ended with {done.returncode}: {done.stderr[:500]}")
    rig.say(f"lb: {_MANY:,} services of {_BACKENDS} backends from {size_mb:.1f} MB of YAML in {took_s:.1f} s")
    return Result(name="lb.load_10k_s", value=took_s, unit="s", aim=at_most(5))


def _restart(rig: Rig, bed: Bed) -> Result:
    taken = []
    for _ in range(_RESTARTS):
        bed.agent.kill()
        taken.append(bed.agent.start())
    if wrong := asking.ask(bed.agent, asking.unequal_rows):
        raise WrongError(f"in sync, and yet {len(wrong)} rows are not what they should be: {wrong[0]}")
    rig.say(f"lb: restart with {_MANY:,} services: {spread(taken, 's')}")
    return Result(name="lb.restart_10k_s", value=median(taken), unit="s", aim=at_most(2))


def _chains(rig: Rig, traffic: Traffic) -> Iterator[Result]:
    """The same by iptables, with plain routing: a chain for each service, and the measured one in their middle."""
    with plain(rig, "direct") as direct, plain(rig, "nat") as nat:
        served = nat.pair._replace(address=_VIP)
        for count in _CHAINED:
            _translate(nat.node.path, count, nat.pair.address)
            name = f"lb.iptables_ratio_{count}"
            yield _connects(rig, traffic, direct.pair, served, iter(_PORTS), name)


def _translate(node: str, services: int, server: str) -> None:
    """So many services, the one at `_VIP` among them, in the namespace at this path."""
    addresses = [str(IPv4Address("10.97.0.0") + number) for number in range(services - 1)]
    addresses.insert(services // 2, _VIP)
    first, last = _PORTS[0], _PORTS[-1]
    rules = ["*nat", ":SERVICES - [0:0]", *(f":SVC-{number} - [0:0]" for number in range(services))]
    rules.append("-A PREROUTING -j SERVICES")
    for number, address in enumerate(addresses):
        rules.append(f"-A SERVICES -d {address}/32 -p tcp -m tcp --dport {first}:{last} -j SVC-{number}")
        rules.append(f"-A SVC-{number} -p tcp -m tcp -j DNAT --to-destination {server}")
    # Connections that are over may be forgotten, so that the table does not fill up.
    short = ["sysctl", "-qw", *(f"net.netfilter.nf_conntrack_tcp_timeout_{one}=1" for one in ("time_wait", "close"))]
    text = "\n".join([*rules, "COMMIT", ""])
    for command, given in ((["iptables-restore"], text), (short, "")):
        entered = ["nsenter", f"--net={node}", "--", *command]
        done = subprocess.run(entered, input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WrongError(f"{command[0]}: {done.stderr.strip()}")
