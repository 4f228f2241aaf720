"""Commands whose output nobody reads any more, as of `… | head`: they end at once, without a word, as others do."""

import os
import subprocess
from pathlib import Path

import pytest

from cplane.cli.main import cli
from tests.support import asking
from tests.support.agent import BIN, Agent
from tests.support.laptop import add_pods, copy_of
from tests.support.site import policy
from tests.support.tree import ROOT

pytestmark = pytest.mark.slow

UNREAD = 141  # 128 + SIGPIPE
PATIENCE_S = 20
OPEN = policy("web", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]")
SHUT = policy("web", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: admin}}]}]")
GOLDEN = ROOT / "tests/golden/policies"
SCENE, CLOSED = GOLDEN / "truth/scene.yaml", GOLDEN / "truth/02-an-empty-rule"
TALK = ("--from", "demo/client", "--to", "demo/web", "--port", "80/TCP")
QUIET = {"wait"}  # they say nothing
SUFFICE = {"audit", "bisect", "diff", "replay", "why"}  # these are tried without an agent as well


@pytest.fixture(scope="module")
def agent(laptop: Agent, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    add_pods(laptop, "web", "client")
    asking.apply(laptop, OPEN)
    folder = laptop.folder / "given"
    folder.mkdir()
    (folder / "shut.yaml").write_text(SHUT)
    (folder / "probes").write_text('{"from": "shop/web", "to": "shop/api", "port": 80}\n' * 20)
    return laptop


def invoke(agent: Agent, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(BIN / "cplane"), *arguments],
        env=agent.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def unread(agent: Agent, *arguments: str) -> tuple[int, bytes]:
    """How the command ends that nobody reads from its beginning on, and what it says of it."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [str(BIN / "cplane"), *arguments],
            env=agent.environment,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr


ONLINE = [
    ("audit",),
    ("audit", "-o", "json"),
    ("bisect", *TALK, "--good", "1", "--bad", "head"),
    ("bpf", "policy", "list"),
    ("bpf", "ipcache", "list"),
    ("completion", "bash"),
    ("fqdn", "cache", "list"),
    ("fqdn", "names"),
    ("config",),
    ("diff", "1", "head"),
    ("doctor",),
    ("endpoint", "list"),
    ("endpoint", "get", "1"),
    ("identity", "list"),
    ("ip", "list"),
    ("log",),
    ("log", "-f"),
    ("log", "-o", "yaml"),
    ("log", "checkpoint"),
    ("log", "export"),
    ("log", "export", "--zstd"),
    ("log", "verify"),
    ("policy", "get", "web", "-n", "demo"),
    ("policy", "list"),
    ("policy", "status"),
    ("policy", "preview", "-f", "{given}/shut.yaml"),
    ("probe", "10.0.0.1", "10.0.0.2", "--port", "80"),
    ("replay",),
    ("replay", "--follow"),
    ("rollback", "--to", "1", "--dry-run"),
    ("service", "list"),
    ("status",),
    ("version",),
    ("why", *TALK),
    ("why", *TALK, "-o", "tree"),
    ("policy", "validate", "-f", str(SCENE), str(CLOSED / "policy.yaml")),
    ("policy", "test", "-f", str(SCENE), str(CLOSED / "policy.yaml"), "--tests", str(CLOSED / "tests.yaml")),
    ("policy", "eval", "-f", str(SCENE), str(CLOSED / "policy.yaml"), "--probes", "{given}/probes"),
    ("policy", "matrix", "-f", str(SCENE), str(CLOSED / "policy.yaml"), "--port", "80/TCP"),
    ("--help",),
    ("policy", "--help"),
    ("log", "verify", "--help"),
]
OFFLINE = [
    ("audit",),
    ("bisect", *TALK, "--good", "1", "--bad", "head"),
    ("diff", "1", "head"),
    ("log", "checkpoint"),
    ("log", "export"),
    ("log", "verify"),
    ("policy", "preview", "-f", "{given}/shut.yaml"),
    ("replay",),
    ("replay", "--follow", "--speed", "50"),
    ("why", *TALK),
]


@pytest.mark.parametrize("command", ONLINE, ids=" ".join)
def test_a_command_that_nobody_reads_ends_without_a_word(agent: Agent, command: tuple[str, ...]) -> None:
    filled = tuple(word.format(given=agent.folder / "given") for word in command)
    assert unread(agent, *filled) == (UNREAD, b"")


@pytest.mark.parametrize("command", OFFLINE, ids=" ".join)
def test_so_does_one_that_asks_no_agent(agent: Agent, command: tuple[str, ...], tmp_path: Path) -> None:
    filled = tuple(word.format(given=agent.folder / "given") for word in command)
    log = copy_of(agent.state / "log.db", tmp_path)
    assert unread(agent, *filled, "--log", str(log)) == (UNREAD, b"")


def test_every_command_was_tried() -> None:
    tried = {command[0] for command in ONLINE if not command[0].startswith("-")}
    assert tried == cli.commands.keys() - QUIET
    assert {command[0] for command in OFFLINE} >= SUFFICE


def test_who_reads_one_line_of_what_is_to_come_has_no_command_left_that_waits(agent: Agent) -> None:
    """No event comes after the reader has gone."""
    for command in (("log", "-f"), ("log", "-f", "-o", "json")):
        following = invoke(agent, *command)
        assert following.stdout is not None and following.stderr is not None
        assert following.stdout.readline()
        following.stdout.close()
        try:
            assert following.wait(PATIENCE_S) == UNREAD
            assert following.stderr.read() == b""
        finally:
            following.kill()
            following.wait()
            following.stderr.close()


def test_a_change_is_made_although_nobody_reads_that_it_was(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(policy("more", "web", "ingress: [{fromEndpoints: [{matchLabels: {app: other}}]}]"))
    assert unread(agent, "policy", "apply", "-f", str(path), "--wait") == (UNREAD, b"")
    assert "more" in agent.cplane("policy", "list").stdout
    assert unread(agent, "policy", "delete", "more", "-n", "demo") == (UNREAD, b"")
    assert "more" not in agent.cplane("policy", "list").stdout


def test_a_disk_that_is_full_is_no_reader_that_has_gone(agent: Agent) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [str(BIN / "cplane"), "log"], env=agent.environment, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, b"No space left on device" in done.stderr) == (1, True)
    assert b"Traceback" not in done.stderr
