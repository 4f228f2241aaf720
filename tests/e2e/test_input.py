"""Texts that are no policies: refused with their place in the text, and nothing is applied."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support import asking
from tests.support.agent import Agent
from tests.support.site import policy

pytestmark = pytest.mark.slow

GOOD = policy("good", "web", "ingress: [{}]")
ONE_MEBIBYTE = 1 << 20
SERVED_S = 2.5  # on a machine with nothing to spare; it is 0.4 s where there is


@pytest.fixture
def agent(laptop: Agent) -> Iterator[Agent]:
    """The agent, which must be where it was after whatever a test tells it."""
    before = asking.status(laptop)
    yield laptop
    after = asking.status(laptop)
    assert (after.head, after.digest, after.policies, after.tables) == (
        before.head,
        before.digest,
        before.policies,
        before.tables,
    )
    assert after.in_sync


def refused(agent: Agent, text: str | bytes, folder: Path) -> list[str]:
    """The lines with which the text is refused."""
    file = folder / "p.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    done = agent.cplane("policy", "apply", "-f", str(file), "--wait", check=False)
    assert (done.returncode, done.stdout) == (1, ""), (done.stdout, done.stderr)
    return [line.removeprefix("cplane: ").removeprefix(str(file)).lstrip(":, ") for line in done.stderr.splitlines()]


def changed(old: str, new: str) -> str:
    """A second document, which is the good one with a change."""
    second = GOOD.replace("name: good", "name: second")
    assert old in second
    return f"{GOOD}---\n{second.replace(old, new)}"


class Waiting:
    """Somebody else, who asks the agent again and again inside the block."""

    def __init__(self, agent: Agent) -> None:
        self.longest_s = 0.0
        self._agent, self._over = agent, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            asking.status(self._agent)
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{GOOD}---\nspec: [unclosed", "document 2, line "),
        (f"{GOOD}---\n\tkind: x", "document 2, line "),
        (changed("ingress:", "ingres:"), "document 2, spec.ingres: unknown field; did you mean 'ingress'?"),
        (changed("[{}]", "everything"), "document 2, spec.ingress: expected a list, got string 'everything'"),
        (changed("{app: web}", "{app: 5}"), "document 2, spec.endpointSelector.matchLabels.app: expected a string"),
        (
            changed("[{}]", "[{fromCIDR: [10.0.0.0/33]}]"),
            "document 2, spec.ingress[0].fromCIDR[0]: '10.0.0.0/33'",
        ),
        (
            changed("[{}]", "[{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}]"),
            "document 2, spec.ingress[0].fromCIDRSet[0].except[0]: ",
        ),
        (
            changed("[{}]", '[{toPorts: [{ports: [{port: "65536"}]}]}]'),
            "document 2, spec.ingress[0].toPorts[0].ports[0].port: '65536'",
        ),
        (
            changed("[{}]", '[{toPorts: [{ports: [{port: "80", endPort: 70000}]}]}]'),
            "document 2, spec.ingress[0].toPorts[0].ports[0].endPort: ",
        ),
        (
            changed("[{}]", '[{toPorts: [{ports: [{port: "80", protocol: IPX}]}]}]'),
            "document 2, spec.ingress[0].toPorts[0].ports[0].protocol: ",
        ),
        (changed("{app: web}", "{-app: web}"), "document 2, spec.endpointSelector.matchLabels"),
        (changed("name: second", "name: Second!"), "document 2, metadata.name: 'Second!' is not a name"),
        (changed("namespace: demo", "namespace: d_m"), "document 2, metadata.namespace: 'd_m' is not a namespace"),
        (
            changed("name: second", "name: good"),
            "document 2, metadata.name: CiliumNetworkPolicy demo/good stands in document 1 already",
        ),
        (changed("spec:", "spec: {}\nspec:"), "document 2, spec: the key stands there twice"),
        (changed("[{}]", "[{fromEntities: [mars]}]"), "document 2, spec.ingress[0].fromEntities[0]: "),
        (
            changed("[{}]", "[{}]\n  egressDeny: [{toFQDNs: [{matchName: a.b}]}]"),
            "document 2, spec.egressDeny[0].toFQDNs: ",
        ),
        (
            changed("[{}]", "[{}]\n  egress: [{toServices: []}, {toNodes: [{}]}]"),
            "document 2, spec.egress[1].toNodes: ",
        ),
        (changed("[{}]", "[{fromRequires: [{}]}]"), "document 2, spec.ingress[0].fromRequires: removed from the"),
        (
            changed("kind: CiliumNetworkPolicy", "kind: NetworkPolicy"),
            "document 2, apiVersion: 'cilium.io/v2' is not read here: write networking.k8s.io/v1",
        ),
        (changed("kind: CiliumNetworkPolicy", "kind: Pod"), "document 2, kind: unknown kind 'Pod'"),
        (changed("cilium.io/v2", "v1"), "document 2, apiVersion: 'v1' is not read here"),
        (changed("[{}]", "!!python/object:os.system x"), "document 2, spec.ingress: the tag "),
        (changed("[{}]", "*nowhere"), "document 2, spec.ingress: the alias *nowhere stands for nothing"),
        (f"{GOOD}---\n- just\n- a list", "document 2: an object (a mapping with kind and metadata) is wanted"),
        (GOOD.encode() + b"# \xff\xfe", "not UTF-8: byte "),
        ("", "the text has no object"),
        ("# nothing\n---\n---\n", "the text has no object"),
        ("\0", "document 1: unacceptable character #x0000"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) and not value.startswith("apiVersion") else "",
)
def test_a_text_that_is_wrong_is_refused_with_its_place(
    agent: Agent, tmp_path: Path, text: str | bytes, told: str
) -> None:
    lines = refused(agent, text, tmp_path)
    assert any(line.startswith(told) for line in lines), lines


def test_every_error_of_a_text_is_told_and_none_twice(agent: Agent, tmp_path: Path) -> None:
    rules = 'ingress:\n- fromCIDR: [1.2.3.4/99, x]\n- toPorts: [{ports: [{port: "70000"}]}]\n- fromMoon: []'
    lines = refused(agent, policy("bad", "web", rules), tmp_path)
    assert [line.partition(": ")[0] for line in lines] == [
        "document 1, spec.ingress[0].fromCIDR[0]",
        "document 1, spec.ingress[0].fromCIDR[1]",
        "document 1, spec.ingress[1].toPorts[0].ports[0].port",
        "document 1, spec.ingress[2].fromMoon",
    ]


def test_a_thousand_errors_are_counted_where_they_are_not_told(agent: Agent, tmp_path: Path) -> None:
    peers = ", ".join(f"x{number}" for number in range(2000))
    lines = refused(agent, policy("bad", "web", f"ingress:\n- fromCIDR: [{peers}]"), tmp_path)
    assert len(lines) < 100
    assert lines[-1].startswith("and ")
    assert lines[-1].endswith(" more errors")


def test_aliases_that_multiply_are_refused_before_they_do(agent: Agent, tmp_path: Path) -> None:
    """Ten levels of ten aliases each: ten thousand million values in a kilobyte."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (line,) = refused(agent, "\n".join(levels), tmp_path)
    assert "more than 1000000 values, aliases counted as often as they are used" in line


def test_what_is_nested_too_deep_is_refused(agent: Agent, tmp_path: Path) -> None:
    for text in ("[" * 100_000, "{a: " * 1000 + "1" + "}" * 1000, '{"a":' * 100_000):
        lines = refused(agent, text, tmp_path)
        assert any("nested deeper than 64 levels" in line for line in lines), lines


@pytest.mark.parametrize(
    ("mebibytes", "length", "told"),
    [
        (5, 33, "document 1, spec.ingress[0].fromCIDR[0]: '10.0.0.0/33' is neither a prefix nor an address"),
        (1, 32, "these policies name 43690 prefixes, and one call takes 16384"),
    ],
    ids=["mistakes", "far too many prefixes"],
)
def test_megabytes_are_refused_and_others_are_served_meanwhile(
    agent: Agent, tmp_path: Path, mebibytes: int, length: int, told: str
) -> None:
    numbers = range(mebibytes * ONE_MEBIBYTE // 24)
    peers = ",\n    ".join(f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/{length}" for n in numbers)
    with Waiting(agent) as others:
        lines = refused(agent, policy("big", "web", f"ingress:\n- fromCIDR: [{peers}]"), tmp_path)
    assert lines[0].startswith(told)
    assert others.longest_s < SERVED_S


def test_a_text_that_is_too_long_is_refused_with_its_length(agent: Agent, tmp_path: Path) -> None:
    (line,) = refused(agent, f"{GOOD}# {'x' * 11_000_000}", tmp_path)
    assert line == f"{len(GOOD) + 2 + 11_000_000} bytes are too many, the limit is 10000000: split it"
    (line,) = refused(agent, f"{GOOD}# {'x' * 17 * ONE_MEBIBYTE}", tmp_path)
    assert "bytes; the limit is 16777216" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("endpoint", "relabel", "1", "app=web"), "there is no endpoint 1"),
        (("policy", "delete", "good", "-n", "demo"), "no such policy: CiliumNetworkPolicy demo/good"),
        (("identity", "get", "k8s:app=nobody"), "there is no identity with exactly the labels k8s:app=nobody"),
        (("bpf", "policy", "get", "7"), "there is no endpoint 7"),
        (
            ("wait", "--position", "1000000", "--timeout", "0.05"),
            "position 1000000 is not in the datapath after 0.05 s",
        ),
        (("probe", "10.0.0.1", "nowhere"), "destination: 'nowhere' is not an IP address"),
    ],
)
def test_a_command_that_cannot_be_done_ends_with_1_and_says_why(
    agent: Agent, arguments: tuple[str, ...], told: str
) -> None:
    done = agent.cplane(*arguments, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cplane: {told}"), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("policy", "apply"),
        ("policy", "apply", "-f", "/no/such/file"),
        ("policy", "delete"),
        ("endpoint", "get", "zero"),
        ("wait",),
        ("status", "-o", "xml"),
        ("log", "--from", "0"),
        ("no-such-command",),
        ("--server", "unix:///no/such.sock", "status"),
        ("--server", "127.0.0.1:1", "status"),
        ("--server", "nonsense", "status"),
    ],
)
def test_wrong_usage_and_an_agent_that_does_not_answer_end_with_2(agent: Agent, arguments: tuple[str, ...]) -> None:
    done = agent.cplane(*arguments, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_a_good_text_is_applied_after_all_that(laptop: Agent) -> None:
    position = asking.status(laptop).head
    laptop.cplane("policy", "apply", "-f", "-", "--wait", given=GOOD)
    assert asking.status(laptop).head == position + 1
    assert laptop.cplane("policy", "list").stdout.splitlines()[1].split() == [
        "CiliumNetworkPolicy",
        "demo",
        "good",
        "1",
        "-",
        "-",
    ]
