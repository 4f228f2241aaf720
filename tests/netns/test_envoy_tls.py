"""TLS through a real Envoy: server names, TLS that ends at the proxy, and TLS that begins there."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cplane.domain.policy.http import HttpRule, Secret
from cplane.domain.policy.redirect import Redirect, Tls
from cplane.domain.policy.redirection import RedirectRule
from cplane.domain.verdict import Verdict
from tests.support.proxied import PATH, REF, SERVER, SERVER6, Site, http, redirection, site

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

PROXY, PLAIN_PROXY = 10_000, 10_001
TLS_ORIGIN = Path(__file__).parents[1] / "support/tls_origin.py"
INNER = Tls(Secret("shop", "inner"))
OUTER = Tls(Secret("shop", "outer"))


def certificate(folder: Path, name: str, *hosts: str) -> None:
    """A certificate of its own authority as a secret has it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ",".join(f"DNS:{one}" for one in hosts)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += [
        "-keyout",
        str(folder / "tls.key"),
        "-out",
        str(folder / "tls.crt"),
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
    ]
    subprocess.run([*command, "-addext", f"subjectAltName={names}"], check=True, capture_output=True)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("envoy")
    with site(f"cptt{os.getpid():x}", folder) as made:
        certificate(folder / "origin", "origin", "a.shop", "b.shop", "b.a.shop", "other")
        certificate(made.secrets / "shop/inner", "inner", "a.shop")
        outer = made.secrets / "shop/outer"
        outer.mkdir(parents=True)
        shutil.copy(folder / "origin/tls.crt", outer / "ca.crt")
        made.spawn(made.server, sys.executable, str(TLS_ORIGIN), "443", str(folder / "origin"))
        made.origin(80)
        made.redirect(443, PROXY)
        made.redirect(8443, PLAIN_PROXY)
        yield made


def names(*wanted: str, **tls: Tls) -> RedirectRule:
    return RedirectRule(REF, PATH, Redirect(None, None, wanted, **tls))


def ask(proxied: Site, name: str, trusted: Path, *, host: str = SERVER, path: str = "/") -> str:
    """What is answered to a request over TLS; empty: there is no connection."""
    context = ssl.create_default_context(cafile=str(trusted))
    try:
        plain = proxied.client.run(lambda: socket.create_connection((host, 443), timeout=5))
        with plain, context.wrap_socket(plain, server_hostname=name) as made:
            made.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: made.recv(65536), b"")).decode()
    except ssl.SSLCertVerificationError:
        raise
    except (ConnectionError, ssl.SSLError):
        return ""


@pytest.fixture
def origin_ca(proxied: Site) -> Path:
    return proxied.folder / "origin/tls.crt"


@pytest.mark.parametrize("host", [SERVER, SERVER6])
@pytest.mark.parametrize(
    ("wanted", "passing", "refused"),
    [
        (("a.shop",), ["a.shop", "A.Shop"], ["b.shop", "b.a.shop"]),
        (("*.shop",), ["a.shop", "b.shop"], ["b.a.shop"]),
        (("**.shop",), ["a.shop", "b.a.shop"], []),
        (("*.shop", "b.a.shop"), ["a.shop", "b.a.shop"], []),
        (("*.a.shop", "a.shop"), ["b.a.shop", "a.shop"], ["b.shop"]),
        (("**.shop", "*.a.shop", "*.shop"), ["b.shop", "b.a.shop"], []),
    ],
)
def test_connections_are_judged_by_their_server_name(proxied, origin_ca, host, wanted, passing, refused):
    proxied.apply({PROXY: redirection(names(*wanted), parser="tls", port=443)})
    assert proxied.envoy.problems() == {}
    for one in passing:
        assert ask(proxied, one, origin_ca, host=host).startswith("HTTP/1.1 200"), one
    for one in refused:
        assert ask(proxied, one, origin_ca, host=host) == "", one


def test_what_is_not_tls_has_no_server_name(proxied):
    proxied.apply({PROXY: redirection(names("**.shop"), parser="tls", port=443)})
    with proxied.client.run(lambda: socket.create_connection((SERVER, 443), timeout=5)) as made:
        made.sendall(b"GET / HTTP/1.1\r\nHost: a.shop\r\n\r\n")
        assert made.recv(16) == b""


def test_a_rule_without_names_lets_everything_pass(proxied, origin_ca):
    everything = RedirectRule(REF, PATH, None)
    proxied.apply({PROXY: redirection(names("b.shop"), everything, parser="tls", port=443)})
    assert ask(proxied, "a.shop", origin_ca).startswith("HTTP/1.1 200")


def test_connections_are_told_with_their_server_name(proxied, origin_ca):
    proxied.apply({PROXY: redirection(names("*.shop"), parser="tls", port=443)})
    began = time.time_ns()
    assert ask(proxied, "a.shop", origin_ca)
    assert not ask(proxied, "b.a.shop", origin_ca)
    assert not ask(proxied, "other", origin_ca)
    proxied.until(lambda: len(proxied.since(began)) == 3)
    passed, *refused = proxied.since(began)
    assert (passed.verdict, passed.payload.url, passed.rules) == (Verdict.FORWARDED, "tls://a.shop", (REF,))
    assert [(one.verdict, one.payload.url, one.rules) for one in refused] == [
        (Verdict.DROPPED, "tls://b.a.shop", ()),
        (Verdict.DROPPED, "tls://other", ()),
    ]
    assert {one.proxy_port for one in proxied.since(began)} == {PROXY}


def test_a_name_that_goes_takes_no_other_connection_with_it(proxied, origin_ca):
    proxied.apply({PROXY: redirection(names("a.shop", "b.shop"), parser="tls", port=443)})
    context = ssl.create_default_context(cafile=str(origin_ca))
    plain = proxied.client.run(lambda: socket.create_connection((SERVER, 443), timeout=5))
    with context.wrap_socket(plain, server_hostname="a.shop") as made:
        made.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert made.recv(12) == b"HTTP/1.1 200"
        proxied.apply({PROXY: redirection(names("a.shop"), parser="tls", port=443)})
        assert not ask(proxied, "b.shop", origin_ca)
        proxied.until(lambda: True)
        made.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert made.recv(65536)


def test_requests_inside_tls_are_judged_where_tls_ends(proxied, origin_ca):
    inner = proxied.secrets / "shop/inner/tls.crt"
    rule = http(HttpRule("GET", "/public/.*"), terminating=INNER, originating=OUTER)
    proxied.apply({PROXY: redirection(rule, port=443)})
    assert proxied.envoy.problems() == {}
    said = ask(proxied, "a.shop", inner, path="/public/a")
    assert json.loads(said.partition("\r\n\r\n")[2])["sni"] == "a.shop"
    assert ask(proxied, "a.shop", inner, path="/private").startswith("HTTP/1.1 403")
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(proxied, "a.shop", origin_ca)


def test_http2_inside_tls_is_negotiated(proxied):
    inner = proxied.secrets / "shop/inner/tls.crt"
    rule = http(HttpRule("GET", "/public/.*"), terminating=INNER, originating=OUTER)
    proxied.apply({PROXY: redirection(rule, port=443)})
    arguments = ("--cacert", str(inner), "--resolve", f"a.shop:443:{SERVER}", "--http2", "-i")
    assert "HTTP/2 403" in proxied.curl(*arguments, "https://a.shop/private")
    assert "HTTP/2 200" in proxied.curl(*arguments, "https://a.shop/public/")


def test_a_server_that_is_not_trusted_is_not_spoken_to(proxied):
    inner = proxied.secrets / "shop/inner/tls.crt"
    stranger = Tls(Secret("shop", "stranger"))
    certificate(proxied.folder / "stranger", "stranger", "a.shop")
    folder = proxied.secrets / "shop/stranger"
    folder.mkdir()
    shutil.copy(proxied.folder / "stranger/tls.crt", folder / "ca.crt")
    rule = http(HttpRule(), terminating=INNER, originating=stranger)
    proxied.apply({PROXY: redirection(rule, port=443)})
    assert ask(proxied, "a.shop", inner).startswith("HTTP/1.1 503")


def test_a_secret_that_is_not_there_lets_nothing_pass_until_it_comes(proxied):
    late = Tls(Secret("shop", "late"))
    rule = http(HttpRule(), terminating=late, originating=OUTER)
    proxied.apply({PROXY: redirection(rule, port=443)})
    assert proxied.envoy.problems() == {PROXY: "secret shop/late is not there"}
    folder = proxied.secrets / "shop/late"
    certificate(proxied.folder / "late", "late", "a.shop")
    assert not ask(proxied, "a.shop", proxied.folder / "late/tls.crt").startswith("HTTP/1.1 200")
    shutil.copytree(proxied.folder / "late", folder)
    proxied.until(lambda: not proxied.envoy.problems())
    assert ask(proxied, "a.shop", folder / "tls.crt").startswith("HTTP/1.1 200")


def test_a_certificate_that_is_renewed_is_shown_to_the_next_client(proxied):
    renewed = Tls(Secret("shop", "renewed"))
    folder = proxied.secrets / "shop/renewed"
    certificate(folder, "first", "a.shop")
    proxied.apply({PROXY: redirection(http(HttpRule(), terminating=renewed, originating=OUTER), port=443)})
    shutil.copy(folder / "tls.crt", proxied.folder / "first.crt")
    assert ask(proxied, "a.shop", proxied.folder / "first.crt").startswith("HTTP/1.1 200")
    certificate(folder, "second", "a.shop")

    def shown() -> bool:
        try:
            return ask(proxied, "a.shop", folder / "tls.crt").startswith("HTTP/1.1 200")
        except ssl.SSLCertVerificationError:
            return False

    proxied.until(shown)


def test_bytes_that_are_no_certificate_leave_the_rest_in_force(proxied):
    broken = Tls(Secret("shop", "broken"))
    folder = proxied.secrets / "shop/broken"
    folder.mkdir()
    for name in ("tls.crt", "tls.key"):
        (folder / name).write_bytes(b"no certificate")
    other = redirection(http(HttpRule("GET", "/public/.*")), port=8443)
    proxied.apply({PROXY: redirection(http(HttpRule(), terminating=broken), port=443), PLAIN_PROXY: other})
    assert set(proxied.envoy.problems()) == {PROXY}


def test_plain_connections_go_on_over_tls_where_it_begins_here(proxied):
    proxied.apply({PROXY: redirection(http(HttpRule("GET", "/public/.*"), originating=OUTER), port=443)})
    assert proxied.envoy.problems() == {}
    said = proxied.curl("-H", "Host: a.shop", f"http://{SERVER}:443/public/x")
    assert said.startswith("200")
    assert json.loads(said.partition("\n")[2])["sni"] == "a.shop"
    assert proxied.curl("-H", "Host: a.shop", f"http://{SERVER}:443/private").startswith("403")


def test_tls_that_only_ends_here_goes_on_as_it_is(proxied):
    inner = proxied.secrets / "shop/inner/tls.crt"
    proxied.apply({PROXY: redirection(names(terminating=INNER, originating=OUTER), parser="tls", port=443)})
    assert proxied.envoy.problems() == {}
    assert json.loads(ask(proxied, "a.shop", inner).partition("\r\n\r\n")[2])["sni"] == "a.shop"
