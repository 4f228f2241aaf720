"""Envoy and bad input, and what is left of policy when something of it dies: no request passes that should not."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from cplane.domain.policy.http import HttpRule
from cplane.domain.verdict import Verdict
from cplane.proxy.process import read_identity, started_at
from tests.support.proxied import SERVER, SERVER6, Site, http, redirection, site
from tests.support.raw_http import Connection

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

PROXY, GRPC_PROXY = 10_000, 10_001
GRPC_PORT = 50051
URL = f"http://{SERVER}"
GRPC = Path(__file__).parents[1] / "support/grpc_origin.py"
HOST = b"Host: a\r\n"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(f"cptf{os.getpid():x}", tmp_path_factory.mktemp("envoy")) as made:
        made.origin(80)
        made.redirect(80, PROXY)
        made.redirect(GRPC_PORT, GRPC_PROXY)
        yield made


@pytest.fixture
def proxied(started: Site) -> Site:
    """GET /public/.* may pass, nothing else."""
    started.apply({PROXY: redirection(http(HttpRule("GET", "/public/.*")))})
    assert started.envoy.problems() == {}
    return started


def asked(proxied: Site, data: bytes) -> int:
    """The status that the bytes are answered with; 0: the connection is closed."""
    connection = Connection(proxied.client, SERVER)
    try:
        connection.send(data)
        answer = connection.answer()
        return answer.status if answer is not None else 0
    finally:
        connection.close()


# ---- bad input

SMUGGLED = b"GET /private HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"GET /public/ HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 44\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        + SMUGGLED,
        b"GET /public/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"GET /public/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"GET /public/ HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        b"GET /public/ HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc",
        b"GET /public/ HTTP/1.1\r\n" + HOST + b"Content-Length : 3\r\n\r\nabc",
        b"GET /public/ HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
        b"GET /public/ HTTP/1.1\r\n" + HOST + b"X\x01: a\r\n\r\n",
        b"GET /public/\x01 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /public/ HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no TLS is expected here",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    ],
)
def test_what_is_no_request_is_refused(proxied, data):
    began = time.time_ns()
    assert asked(proxied, data) in {0, 400, 501, 505}
    assert not any(one.verdict is Verdict.FORWARDED and "private" in one.payload.url for one in proxied.since(began))


def test_what_follows_a_refused_request_is_not_read_as_another(proxied):
    connection = Connection(proxied.client, SERVER)
    body = b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
    connection.send(b"GET /public/ HTTP/1.1\r\n" + HOST + body)
    answer = connection.answer()
    assert answer is not None
    assert (answer.status, b"/private" in answer.body) == (200, True)  # it is a body, and was answered as one
    assert connection.ask("GET", "/private").status == 403
    connection.close()


def test_a_folded_header_does_not_reach_the_server_as_two(proxied):
    assert asked(proxied, b"GET /public/ HTTP/1.1\r\n" + HOST + b"X-A: 1\r\n X-B: 2\r\n\r\n") in {200, 400}
    proxied.apply({PROXY: redirection(http(HttpRule(headers=("X-B",))))})
    assert asked(proxied, b"GET /public/ HTTP/1.1\r\n" + HOST + b"X-A: 1\r\n X-B: 2\r\n\r\n") in {400, 403}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/public/../private", 403),
        ("/public/%2e%2e/private", 403),
        ("/public/%2E%2e/private", 403),
        ("/public/.%2e/private", 403),
        ("/public/./../private", 403),
        ("//private", 403),
        ("/public//../private", 200),  # which is /public/private
        ("/private/../public/a", 200),
        ("//public//a", 200),
        ("/public/..%2fprivate", 307),
        ("/public/..%5Cprivate", 307),
        ("/public/..\\private", 403),
        ("/PUBLIC/a", 403),
        ("/public", 403),
        ("/public/\xff\xfe", 400),
        ("/public/#/../private", 400),
        ("*", 400),
    ],
)
def test_a_path_is_judged_as_the_server_will_read_it(proxied, path, status):
    assert asked(proxied, b"GET " + path.encode("latin-1") + b" HTTP/1.1\r\n" + HOST + b"\r\n") == status


def test_a_url_in_place_of_a_path_is_judged_by_its_path(proxied):
    assert asked(proxied, b"GET http://a/private HTTP/1.1\r\nHost: a\r\n\r\n") == 403
    assert asked(proxied, b"GET http://a/public/ HTTP/1.1\r\nHost: a\r\n\r\n") == 200
    proxied.apply({PROXY: redirection(http(HttpRule(host="a")))})
    assert asked(proxied, b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n") == 403


@pytest.mark.parametrize("rules", [(HttpRule(),), (HttpRule("CONNECT"),)])
def test_tunnels_are_refused(proxied, rules):
    proxied.apply({PROXY: redirection(http(*rules))})
    assert asked(proxied, b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n") == 403
    assert asked(proxied, b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: tunnel\r\nConnection: upgrade\r\n\r\n") == 403


def test_headers_that_are_too_large_are_refused(proxied):
    assert asked(proxied, b"GET /public/ HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 70_000 + b"\r\n\r\n") == 431
    many = b"".join(b"X-%d: a\r\n" % number for number in range(300))
    assert asked(proxied, b"GET /public/ HTTP/1.1\r\n" + HOST + many + b"\r\n") == 431


def test_who_sends_headers_slowly_is_sent_away(proxied):
    connection = Connection(proxied.client, SERVER, timeout_s=20)
    connection.send(b"GET /public/ HTTP/1.1\r\nHost: a\r\n")
    began = time.monotonic()
    answer = None
    while time.monotonic() - began < 15:
        connection.send(b"X-More: a\r\n")
        connection.socket.settimeout(0.5)
        try:
            answer = connection.answer()
            break
        except TimeoutError:
            continue
    assert answer is not None
    assert answer.status == 408
    assert 9 < time.monotonic() - began < 13
    connection.close()


def flooded(proxied: Site, flood: "object") -> bool:
    """Whether a client of HTTP/2 is sent away for what it does."""
    made = proxied.client.run(lambda: socket.create_connection((SERVER, 80), timeout=10))
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, validate_outbound_headers=False))
    client.initiate_connection()
    try:
        made.sendall(client.data_to_send())
        for _ in range(200):
            flood(client)  # type: ignore[operator]
            made.sendall(client.data_to_send())
        made.settimeout(5)
        while data := made.recv(65536):
            for event in client.receive_data(data):
                if isinstance(event, h2.events.ConnectionTerminated):
                    return True
    except (ConnectionError, TimeoutError) as error:
        return not isinstance(error, TimeoutError)
    finally:
        made.close()
    return True


REQUEST = [(":method", "GET"), (":path", "/public/"), (":scheme", "http"), (":authority", "a")]


def reset_rapidly(client: h2.connection.H2Connection) -> None:
    for _ in range(50):
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, REQUEST)
        client.reset_stream(stream)


def ping(client: h2.connection.H2Connection) -> None:
    for _ in range(100):
        client.ping(b"12345678")


def prioritize(client: h2.connection.H2Connection) -> None:
    for _ in range(100):
        client.prioritize(1, weight=7)


def send_nothing(client: h2.connection.H2Connection) -> None:
    stream = client.get_next_available_stream_id()
    client.send_headers(stream, REQUEST)
    for _ in range(5):
        client.send_data(stream, b"")


@pytest.mark.parametrize("flood", [reset_rapidly, prioritize, send_nothing])
def test_who_floods_http2_is_sent_away_and_others_are_served(proxied, flood):
    assert flooded(proxied, flood)
    assert proxied.curl(f"{URL}/public/").startswith("200")


def test_pings_do_no_harm(proxied):
    flooded(proxied, ping)
    assert proxied.curl(f"{URL}/public/").startswith("200")


# ---- gRPC


def test_methods_of_grpc_are_paths(proxied):
    proxied.spawn(proxied.server, sys.executable, str(GRPC), "serve", str(GRPC_PORT))
    rule = HttpRule("POST", "/shop.Orders/.*")
    proxied.apply({GRPC_PROXY: redirection(http(rule), port=GRPC_PORT)})

    def call(method: str, *arguments: str, host: str = SERVER) -> str:
        target = f"{host}:{GRPC_PORT}"
        return proxied.inside(proxied.client, sys.executable, str(GRPC), "call", target, method, *arguments).strip()

    assert call("/shop.Orders/Get") == "OK|got x"
    assert call("/shop.Orders/Watch", "stream", host=f"[{SERVER6}]") == "OK|0 x|1 x|2 x"
    code, _, text = call("/shop.Admin/Get").partition("|")
    assert (code, text.strip()) == ("PERMISSION_DENIED", "Access denied")
    assert call("/shop.Admin/Watch", "stream").startswith("PERMISSION_DENIED|")


# ---- what dies


def test_envoy_is_back_within_a_second_and_denied_stays_denied(proxied):
    connection = Connection(proxied.client, SERVER)
    assert connection.ask("GET", "/private").status == 403
    killed = proxied.kill_envoy()
    began = time.monotonic()
    codes = set()
    while time.monotonic() - began < 1.5:
        codes.add(proxied.curl("-m", "0.3", "--connect-timeout", "0.3", f"{URL}/private").partition("\n")[0])
        if "403" in codes and proxied.envoy.problems() == {}:
            break
    assert "403" in codes
    assert "200" not in codes
    assert time.monotonic() - began < 1
    assert proxied.envoy.process.pid not in {0, killed}
    assert proxied.curl(f"{URL}/public/").startswith("200")
    connection.close()


def test_envoy_goes_on_without_the_agent_and_is_found_by_the_next(proxied):
    connection = Connection(proxied.client, SERVER)
    assert connection.ask("GET", "/public/a").status == 200
    pid = proxied.envoy.process.pid
    proxied.stop()
    try:
        assert connection.ask("GET", "/public/a").status == 200
        assert connection.ask("GET", "/private").status == 403
        assert proxied.curl(f"{URL}/public/").startswith("200")
        assert proxied.curl(f"{URL}/private").startswith("403")
    finally:
        proxied.start()
    time.sleep(1)  # nothing is taken from it before it is told what there is
    assert connection.ask("GET", "/public/a").status == 200
    grpc = redirection(http(HttpRule("POST", "/shop.Orders/.*")), port=GRPC_PORT)
    proxied.apply({PROXY: redirection(http(HttpRule("GET", "/public/.*"))), GRPC_PROXY: grpc})
    assert connection.ask("GET", "/public/a").status == 200
    assert proxied.envoy.process.pid == pid
    assert proxied.envoy.process.starts == 0
    proxied.apply({PROXY: redirection(http(HttpRule("GET", "/other")))})
    assert connection.ask("GET", "/public/a").status == 403
    connection.close()


def test_envoy_of_another_version_takes_over_without_a_gap(proxied):
    pid = proxied.envoy.process.pid
    proxied.stop()
    proxied.start(node="another")
    proxied.until(lambda: proxied.envoy.process and proxied.envoy.process.pid not in {0, pid})
    assert proxied.curl(f"{URL}/public/").startswith("200")  # of the one before, until the new one is told its rules
    proxied.apply({PROXY: redirection(http(HttpRule("GET", "/public/.*")))})
    began, codes = time.monotonic(), set()
    while started_at(pid):
        assert time.monotonic() - began < 10
        for path in ("public/", "private"):
            codes.add((path, proxied.curl("--connect-timeout", "0.5", f"{URL}/{path}").partition("\n")[0]))
    assert codes == {("public/", "200"), ("private", "403")}
    assert proxied.envoy.problems() == {}
    assert proxied.envoy.process.starts == 1
    proxied.kill_envoy()  # and who dies now is followed by one without a past
    proxied.until(lambda: proxied.envoy.process.starts == 2 and not proxied.envoy.problems())
    assert proxied.curl(f"{URL}/public/").startswith("200")


def test_what_envoy_refuses_leaves_the_old_policy(proxied, monkeypatch):
    from cplane.xds import routes

    monkeypatch.setattr(routes.regex, "problem", lambda _expression: "")
    other = redirection(http(HttpRule("GET", "/other")), port=GRPC_PORT)
    proxied.apply({PROXY: redirection(http(HttpRule("GET", "(unclosed"))), GRPC_PROXY: other})
    found = proxied.envoy.problems()
    assert set(found) == {PROXY}
    assert "missing )" in found[PROXY]
    assert proxied.curl(f"{URL}/public/").startswith("200")
    assert proxied.curl(f"{URL}/private").startswith("403")
    proxied.apply({PROXY: redirection(http(HttpRule("GET", "/mended")))})
    assert proxied.envoy.problems() == {}
    assert proxied.curl(f"{URL}/mended").startswith("200")


def test_a_redirection_that_is_gone_has_no_listener(proxied):
    proxied.apply({GRPC_PROXY: redirection(http(HttpRule()), port=GRPC_PORT)})
    listening = proxied.inside(proxied.router, "ss", "-Hltn", "sport", f":{GRPC_PROXY}")
    assert len(listening.splitlines()) == 2
    proxied.apply({}, (GRPC_PROXY,))
    proxied.until(lambda: not proxied.inside(proxied.router, "ss", "-Hltn", "sport", f":{GRPC_PROXY}"))


def test_the_proxy_is_told_to_be_away_while_it_is(proxied):
    identity = read_identity(proxied.folder / "proxy/envoy.pid")
    assert identity is not None
    assert proxied.envoy.problems() == {}
    proxied.kill_envoy()
    proxied.until(lambda: proxied.envoy.problems().get(PROXY))
    proxied.until(lambda: not proxied.envoy.problems())


def test_a_stall_of_the_agent_loses_no_records(proxied):
    began = time.time_ns()
    agent = proxied._agent
    agent.portal.start_task_soon(_stall)
    connection = Connection(proxied.client, SERVER)
    for _ in range(500):
        assert connection.ask("GET", "/private").status == 403
    connection.close()
    proxied.until(lambda: len(proxied.since(began)) == 1000)
    assert agent.portal.call(proxied.envoy.records_dropped) == 0


async def _stall() -> None:
    time.sleep(1)  # noqa: ASYNC251  # the event loop stands still on purpose
