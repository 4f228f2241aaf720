"""Envoy as we run it: what rules cost, how fast a change is in force, and what a record of access costs the agent."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from subprocess import PIPE, Popen
from threading import Thread
from typing import Final

from report import Result, WrongError, at_least, at_most, ratio_result, spread
from rig import Rig

from cplane.domain.policy.http import HttpRule
from cplane.domain.policy.redirection import RedirectRule
from cplane.domain.verdict import Direction
from cplane.hubble.kept import open_store
from cplane.hubble.parser.seven import AccessParser
from tests.support.flows import SEED, World
from tests.support.proxied import REF, SERVER, Site, http, redirection, site
from tests.support.raw_http import Connection

RULES: Final = 100
REDIRECTIONS: Final = 1000
_LOAD: Final = Path(__file__).with_name("l7_http_load.py")
_OPEN, _RULES, _FIRST = 10_000, 10_001, 10_100  # proxy ports; the ports of the server are 80 and 81
_BLOCK: Final = 1600  # requests between two looks at the clock
_ROUNDS: Final = 60
_CHANGES: Final = 60
_RECORDS: Final = 2000


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of Envoy."""
    with site(f"{rig.name}-l7", rig.folder / "l7", concurrency=1) as made:
        made.origin(8000)
        for port in (80, 81):
            made.spawn(made.server, sys.executable, str(_LOAD), "serve", str(port))
        made.redirect(80, _OPEN)
        made.redirect(81, _RULES)
        made.redirect(8000, _FIRST)
        yield from _ratio(rig, made)
        yield _live_change(rig, made)
        yield _flow_cpu(rig)
        yield _many(rig, made)


def _ratio(rig: Rig, made: Site) -> Iterator[Result]:
    """CPU time of Envoy for a request without rules by that with 100 of them, in blocks side by side."""
    rules = [HttpRule("GET", f"/api/v{number}/.*") for number in range(RULES)]
    made.apply(
        {
            _OPEN: redirection(RedirectRule(REF, "", None)),
            _RULES: redirection(http(*rules), port=81),
        }
    )
    if problems := made.envoy.problems():
        raise WrongError(f"Envoy refuses: {problems}")
    command = ["ip", "netns", "exec", made.client.name, sys.executable, str(_LOAD), "ask", SERVER]
    spent: dict[int, list[float]] = {80: [], 81: []}
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        asking.stdout.readline()
        for round_ in range(-1, _ROUNDS):  # the first one warms up
            for port in (80, 81) if round_ % 2 else (81, 80):
                before = _on_cpu_ns(made)
                asking.stdin.write(f"{port} {_BLOCK} {round_ * 7 % RULES}\n")
                asking.stdin.flush()
                if (fine := int(asking.stdout.readline())) != _BLOCK:
                    raise WrongError(f"{fine} of {_BLOCK} requests were answered")
                if round_ >= 0:
                    spent[port].append((_on_cpu_ns(made) - before) / _BLOCK / 1000)
    rig.say(f"l7: Envoy, µs of CPU for a request: no rules {spread(spent[80], 'µs')}; 100 {spread(spent[81], 'µs')}")
    yield ratio_result(
        "l7.http_ratio_100rules",
        [none / rules for none, rules in zip(spent[80], spent[81], strict=True)],
        "Envoy without rules",
        at_least(0.9),
    )


def _on_cpu_ns(made: Site) -> int:
    """Time that Envoy's threads have run."""
    assert made.envoy.process is not None
    tasks = Path(f"/proc/{made.envoy.process.pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) for one in tasks)


def _live_change(rig: Rig, made: Site) -> Result:
    """From `apply` to the first other verdict on a connection that was open before."""
    allowed, denied = HttpRule("GET", "/live"), HttpRule("GET", "/dead")
    made.apply({_FIRST: redirection(http(allowed), port=8000)})
    connection = Connection(made.client, SERVER, 8000)
    took = []
    for number in range(_CHANGES):
        wanted, rule = ((403, denied), (200, allowed))[number % 2]
        changing = Thread(target=made.apply, args=({_FIRST: redirection(http(rule), port=8000)},))
        began = time.perf_counter()
        changing.start()
        while (answer := connection.ask("GET", "/live")) is not None and answer.status != wanted:
            if time.perf_counter() - began > 5:
                raise WrongError("the change is not in force")
        took.append((time.perf_counter() - began) * 1000)
        if answer is None:
            raise WrongError("the connection was closed by a change of policy")
        changing.join()
    connection.close()
    rig.say(f"l7: a change on an open connection: {spread(took, 'ms')}")
    return Result(name="l7.live_change_ms", value=median(took), unit="ms", aim=at_most(10))


def _flow_cpu(rig: Rig) -> Result:
    """From the bytes of a batch of the access log to flows in a ring that is kept in files."""
    from cplane.xds.accesslog import Reader
    from cplane.xds.records import Records

    path = str(rig.folder / "l7" / "flows.ring")
    store = open_store(path, cluster="default", node="node1", capacity=1 << 18, new_id=SEED, boot=bytes(16))
    flows = AccessParser(store, World(), position=lambda: 1, now_ns=time.time_ns)
    data = _batch()
    reader, reading, all_of_it = Reader(), [], []
    for _ in range(20):
        began = time.thread_time_ns()
        records = reader.accesses(Records.FromString(data), Direction.EGRESS)
        read = time.thread_time_ns()
        flows.accesses(records)
        all_of_it.append((time.thread_time_ns() - began) / _RECORDS / 1000)
        reading.append((read - began) / _RECORDS / 1000)
        if len(records) != _RECORDS:
            raise WrongError("records are missing")
    rig.say(f"l7: a record of access becomes a flow: {spread(all_of_it, 'µs')}; reading it: {spread(reading, 'µs')}")
    return Result(name="l7.flow_cpu_us", value=median(all_of_it), unit="µs", aim=at_most(10))


def _batch() -> bytes:
    """Requests and answers as a real client causes them."""
    from envoy.data.accesslog.v3 import accesslog_pb2
    from envoy.service.accesslog.v3 import als_pb2

    from cplane.xds.names import allowing

    name = allowing(_RULES, [RedirectRule(REF, "spec.ingress[0].toPorts[0].rules.http[0]", None)])
    made = als_pb2.StreamAccessLogsMessage()
    for number in range(_RECORDS):
        entry = made.http_logs.log_entry.add()
        entry.protocol_version = accesslog_pb2.HTTPAccessLogEntry.HTTP11
        common = entry.common_properties
        common.route_name = name
        common.access_log_type = (accesslog_pb2.DownstreamStart, accesslog_pb2.DownstreamEnd)[number % 2]
        common.downstream_direct_remote_address.socket_address.address = "10.0.0.1"
        common.downstream_direct_remote_address.socket_address.port_value = 40_000 + number % 100
        common.downstream_local_address.socket_address.address = "10.0.0.2"
        common.downstream_local_address.socket_address.port_value = 80
        common.start_time.seconds, common.duration.nanos = 1_700_000_000, 1_000_000
        entry.request.request_method, entry.request.scheme, entry.request.authority = 1, "http", "shop"
        entry.request.path = f"/api/v1/items/{number}"
        for key in ("accept", "user-agent", "host", "x-token", "x-request-id"):
            entry.request.request_headers[key] = "some value"
        if number % 2:
            entry.response.response_code.value = 200
            for key in ("content-type", "content-length", "server"):
                entry.response.response_headers[key] = "some value"
    encoded: bytes = made.SerializeToString()
    return encoded


def _many(rig: Rig, made: Site) -> Result:
    """From `apply` until Envoy has taken them all, and listens."""
    ports = range(11_000, 11_000 + REDIRECTIONS)
    put = {port: redirection(http(HttpRule("GET", f"/of/{port}/.*"))) for port in ports}
    began = time.perf_counter()
    made.apply(put)
    while any(text for port, text in made.envoy.problems().items() if port in put):
        if time.perf_counter() - began > 30:
            raise WrongError(f"Envoy has not taken them: {made.envoy.problems()}")
        time.sleep(0.005)
    took = time.perf_counter() - began
    rig.say(f"l7: {REDIRECTIONS} redirections: {took:.2f} s")
    return Result(name="l7.load_1000_s", value=took, unit="s", aim=at_most(2))
