"""Pods that try to get past a proxy: nothing that they send reaches a server, or another proxy's rules, unread."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.e2e.test_requests import FAMILIES, PUBLIC, ingress
from tests.support.pods import Pod
from tests.support.site import site
from tests.support.web import Web

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

PRIVATE = PUBLIC.replace("/public/.*", "/private")


@pytest.fixture(scope="module")
def web(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with site(tmp_path_factory.mktemp("site"), programs, ("other", "client")) as made:
        yield Web(made)


@pytest.fixture
def evading(web: Web) -> Iterator[Web]:
    yield web
    web.site.lift()


@contextmanager
def deaf_to_resets(pod: Pod) -> Iterator[None]:
    """The pod goes on with connections that were reset."""
    commands = [
        [f"ip{six}tables", "-w", what, "INPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"]
        for six in ("", "6")
        for what in ("-A", "-D")
    ]
    enter = ["nsenter", f"--net={pod.netns.path}", "--"]
    for command in commands[::2]:
        subprocess.run([*enter, *command], check=True)
    try:
        yield
    finally:
        for command in commands[1::2]:
            subprocess.run([*enter, *command], check=True)


@FAMILIES
def test_a_connection_that_has_another_proxy_port_now_is_not_read_by_its_first_rules(evading: Web, family: int) -> None:
    """The least of the peers for whom the same is heeded names the port: the client is not it, and is told apart."""
    both = "{matchExpressions: [{key: app, operator: In, values: [client, other]}]}"
    evading.site.apply(ingress(PUBLIC.replace("{matchLabels: {app: client}}", both)))
    with closing(evading.talk(family)) as talk, deaf_to_resets(evading.client):
        assert talk("/public/a") == "200"
        evading.site.apply(ingress(PRIVATE, name="api2"))
        with pytest.raises(TimeoutError):
            talk("/public/a")
