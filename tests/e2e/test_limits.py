"""What is too much, too slow or too many is refused or waits, and nobody else notices."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import h2.events
import pytest

from cplane.pb.cplane.admin import v1 as pb
from cplane.pb.observer import observer_pb2 as observer
from cplane.transport.client import ClientChannel
from tests.support import asking, pinned
from tests.support.agent import Agent
from tests.support.pods import Asked
from tests.support.serving import RawClient, status_of
from tests.support.site import PREFIX, Site, policy

pytestmark = pytest.mark.slow

IDLE: Final = 200
GROWTH_MB: Final = 40  # of an agent that somebody does not read from; what was sent is many times that
BIG_POLICIES: Final = 40
PROBES: Final = 300
WAIT: Final = "/cplane.admin.v1.StatusService/Wait"
APPLY: Final = "/cplane.admin.v1.PolicyService/Apply"
TAIL: Final = "/cplane.admin.v1.LogService/Tail"
GET_FLOWS: Final = "/observer.Observer/GetFlows"


def framed(message: bytes) -> bytes:
    """A gRPC message: not compressed, its length, its bytes."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def memory_mb(agent: Agent) -> int:
    """What the agent holds in memory."""
    lines = Path(f"/proc/{agent.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) >> 10


def sockets(agent: Agent) -> int:
    """How many the agent has open; of its files, those that read the log stay open for the next who asks."""
    found = 0
    for one in Path(f"/proc/{agent.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(one).startswith("socket:")
    return found


@contextmanager
def raw(agent: Agent, name: str = "admin.sock") -> Iterator[RawClient]:
    """A client that does only what it is told."""
    made: list[RawClient] = []

    def connected() -> bool:
        try:
            made.append(RawClient(agent.run_dir / name))
        except BlockingIOError:  # so many have just come that the agent has yet to take them in
            return False
        return True

    asking.until(connected, f"a connection to {name}")
    try:
        yield made[0]
    finally:
        made[0].close()


def answer(client: RawClient, stream: int) -> tuple[int, str]:
    """gRPC status and message of a call that ends."""
    client.socket.settimeout(30)
    while data := client.socket.recv(65_536):
        for event in client.h2.receive_data(data):
            if not isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                continue
            headers = [(str(key), str(value)) for key, value in event.headers or ()]
            if event.stream_id == stream and "grpc-status" in dict(headers):
                return status_of(headers)
    raise AssertionError("the agent closed the connection")


def big(number: int) -> str:
    """A policy of some 30 KB."""
    return policy(f"big-{number}", "web", f'description: "{"x" * 30_000}"\ningress: [{{}}]')


async def applied(channel: ClientChannel) -> None:
    """Many big policies come and go."""
    policies = pb.PolicyServiceStub(channel)
    for number in range(BIG_POLICIES):
        await policies.apply(pb.ApplyPolicyRequest(documents=big(number).encode()))
    await asking.lift_all(channel)


def served(agent: Agent) -> None:
    """Everybody else is."""
    assert agent.cplane("status").stdout.startswith("version:")
    assert asking.status(agent).in_sync
    asking.flows(agent, 1)


def test_a_message_that_is_announced_too_long_is_refused_before_it_comes(laptop: Agent) -> None:
    with raw(laptop) as client:
        stream = client.open(APPLY)
        client.send(stream, b"\0" + (1 << 30).to_bytes(4, "big") + b"apiVersion")
        assert answer(client, stream) == (8, "the request has 1073741824 bytes; the limit is 16777216")
        served(laptop)


def test_a_reader_of_the_log_that_never_reads_stops_nobody_and_costs_little(laptop: Agent) -> None:
    with raw(laptop) as client:
        client.send(client.open(TAIL), framed(bytes(pb.TailLogRequest(follow=True))), end=True)
        asking.ask(laptop, applied)
        before = memory_mb(laptop)
        for _ in range(4):
            asking.ask(laptop, applied)
        served(laptop)
        assert memory_mb(laptop) - before < GROWTH_MB


def test_a_follower_of_flows_that_never_reads_stops_nobody_and_costs_little(laptop: Agent) -> None:
    async def probe(channel: ClientChannel) -> None:
        asked = pb.ProbeRequest(source="192.0.2.1", destination="192.0.2.2", protocol=6, destination_port=80)
        for _ in range(PROBES):
            await pb.ProbeServiceStub(channel).probe(asked)

    with raw(laptop, "hubble.sock") as client:
        request = observer.GetFlowsRequest(follow=True)
        client.send(client.open(GET_FLOWS), framed(request.SerializeToString()), end=True)
        asking.ask(laptop, probe)
        before = memory_mb(laptop)
        asking.ask(laptop, probe)
        served(laptop)
        assert memory_mb(laptop) - before < GROWTH_MB


def test_clients_that_go_in_the_middle_of_a_call_leave_nothing_behind(laptop: Agent) -> None:
    before, position = sockets(laptop), asking.status(laptop).head
    request = framed(bytes(pb.WaitRequest(position=1_000_000)))
    for _ in range(20):
        with raw(laptop) as client:
            client.send(client.open(WAIT), request, end=True)
            client.send(client.open(TAIL), framed(bytes(pb.TailLogRequest(follow=True))), end=True)
            client.send(client.open(APPLY), framed(big(0).encode())[:9000])
        with raw(laptop, "hubble.sock") as client:
            client.send(
                client.open(GET_FLOWS), framed(observer.GetFlowsRequest(follow=True).SerializeToString()), end=True
            )
        with closing(socket.socket(socket.AF_UNIX)) as plugin:
            plugin.connect(f"{laptop.run_dir}/cni.sock")
            plugin.sendall(b'{"verb": "ADD"')
    asking.until(lambda: sockets(laptop) <= before, "the connections are closed")
    assert asking.status(laptop).head == position
    served(laptop)


@pytest.mark.parametrize("greets", [True, False], ids=["after a greeting", "without a word"])
def test_two_hundred_connections_that_do_nothing_keep_nobody_waiting(laptop: Agent, *, greets: bool) -> None:
    before, held = sockets(laptop), memory_mb(laptop)
    with ExitStack() as idle:
        for name in ("admin.sock", "hubble.sock"):
            for _ in range(IDLE):
                if greets:
                    idle.enter_context(raw(laptop, name))
                else:
                    connection = idle.enter_context(closing(socket.socket(socket.AF_UNIX)))
                    connection.connect(f"{laptop.run_dir}/{name}")
        asking.until(lambda: sockets(laptop) >= 2 * IDLE, "all are taken in")
        served(laptop)
        assert memory_mb(laptop) - held < GROWTH_MB
    asking.until(lambda: sockets(laptop) <= before, "the connections are closed")


def test_beyond_the_limit_of_connections_new_ones_are_closed_and_the_old_ones_served(laptop: Agent) -> None:
    with ExitStack() as many:
        clients = [many.enter_context(raw(laptop)) for _ in range(256)]
        late = many.enter_context(raw(laptop))
        anyio.run(late.closed)
        stream = clients[0].open("/cplane.admin.v1.StatusService/Get")
        clients[0].send(stream, framed(b""), end=True)
        assert answer(clients[0], stream)[0] == 0
        refused = laptop.cplane("status", check=False)
        assert refused.returncode == 2
    asking.until(lambda: laptop.cplane("status", check=False).returncode == 0, "there is room again")


def test_a_second_agent_over_the_same_log_is_refused_and_the_first_undisturbed(laptop: Agent, tmp_path: Path) -> None:
    before = asking.status(laptop)
    options = ("--state-dir", str(laptop.state))
    second = Agent(tmp_path, f"{PREFIX}{os.getpid():x}-second", datapath="memory", options=options)
    status, words = second.fails_to_start()
    assert status == 1
    assert f"{laptop.state}/log.db is in use by process {laptop.pid}" in words
    assert "a log has one writer, stop that agent first" in words
    assert asking.status(laptop).digest == before.digest
    served(laptop)


def test_a_second_agent_on_the_same_sockets_is_refused_and_the_first_undisturbed(laptop: Agent, tmp_path: Path) -> None:
    options = ("--run-dir", str(laptop.run_dir))
    second = Agent(tmp_path, f"{PREFIX}{os.getpid():x}-second", datapath="memory", options=options)
    status, words = second.fails_to_start()
    assert status == 1
    assert f"cannot listen on unix://{laptop.run_dir}/admin.sock: another process listens there" in words
    served(laptop)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root")


@pytest.mark.root
@needs_root
def test_what_would_not_fit_into_the_kernel_is_refused_before_anything_is_written(place: Site) -> None:
    place.apply(policy("backend", "backend", "ingress:\n- fromEndpoints: [{matchLabels: {app: frontend}}]"))
    before, tables = asking.status(place.agent), pinned.tables(place.agent.bpf_root)
    prefixes = ", ".join(f"203.0.{n}.0/24" for n in range(130))
    ports = "\n".join(
        f"  - ports: [{', '.join(f'{{port: {chr(34)}{n}{chr(34)}, protocol: TCP}}' for n in range(s, s + 40))}]"
        for s in range(1000, 1160, 40)
    )
    flood = policy("flood", "backend", f"ingress:\n- fromCIDR: [{prefixes}]\n  toPorts:\n{ports}")
    refused = place.agent.cplane("policy", "apply", "-f", "-", given=flood, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "table 'policy' of the endpoints that obey policy" in refused.stderr
    assert "and holds 16384: nothing was changed; use fewer peers, ports or prefixes" in refused.stderr
    after = asking.status(place.agent)
    assert (after.head, after.digest, after.in_sync, after.tables) == (before.head, before.digest, True, before.tables)
    assert pinned.tables(place.agent.bpf_root) == tables

    def rule(asked: Asked) -> bool:
        return asked.target != "backend" or asked.source == "frontend"

    assert place.wrong(rule, place.questions(("frontend", "backend", "visitor"), ("tcp",))) == []


@pytest.mark.root
@needs_root
def test_a_second_agent_over_the_same_pins_is_refused_and_the_first_undisturbed(place: Site, tmp_path: Path) -> None:
    """It has a log of its own, which knows nothing of the pods that the kernel serves."""
    place.apply(policy("backend", "backend", "ingress: [{}]"))
    before, tables = asking.status(place.agent), pinned.tables(place.agent.bpf_root)
    second = Agent(tmp_path, place.agent.name, node=place.node)
    place.seed(second.state)
    status, words = second.fails_to_start()
    assert status == 1
    assert f"ends at position 0, but the kernel enforces position {before.head}" in words
    assert pinned.tables(place.agent.bpf_root) == tables
    assert place.unequal() == []
    assert asking.status(place.agent).digest == before.digest
