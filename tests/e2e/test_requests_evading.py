"""Pods that try to get past a proxy: nothing that they send reaches a server, or another proxy's rules, unread."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.e2e.test_requests import FAMILIES, ORIGIN, PUBLIC, Web, ingress
from tests.support.pods import Pod
from tests.support.site import policy, site

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

PRIVATE = PUBLIC.replace("/public/.*", "/private")


@pytest.fixture(scope="module")
def web(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with site(tmp_path_factory.mktemp("site"), programs, ("client", "other")) as made:
        made.pods.add("server", serve=False)
        server = made["server"]
        command = ["nsenter", f"--net={server.netns.path}", "--", sys.executable, str(ORIGIN), "80"]
        server.server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert server.server.stdout is not None
        assert server.server.stdout.readline() == "ready\n"
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
def test_a_connection_that_other_rules_are_for_now_is_not_read_by_its_first_ones(evading: Web, family: int) -> None:
    both = "{matchExpressions: [{key: app, operator: In, values: [server, other]}]}"
    evading.site.apply(ingress(PUBLIC).replace("{matchLabels: {app: server}}", both, 1))
    with closing(evading.talk(family)) as talk, deaf_to_resets(evading.client):
        assert talk("/public/a") == "200"
        evading.site.apply(policy("api", "other", "ingress:" + PUBLIC), ingress(PRIVATE, name="api2"))
        with pytest.raises(TimeoutError):
            talk("/public/a")
