"""A machine that lacks something, and an agent that is told nonsense: what it says, and what works all the same."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import asking
from tests.support.agent import BIN, Agent
from tests.support.mounts import mounts
from tests.support.site import PREFIX, policy, site

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces and dropping capabilities needs root")
pytestmark = pytest.mark.slow

NAME: Final = f"{PREFIX}{os.getpid():x}-env"
NO_CAPABILITY: Final = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--")
NO_BPF: Final = ("setpriv", "--inh-caps=-all", "--bounding-set=-bpf,-sys_admin", "--")


def examined(agent: Agent, *prefix: str) -> dict[str, dict[str, Any]]:  # Any: JSON
    """What `cplane doctor` says about the machine as the prefix makes it, by feature."""
    done = agent.run(*prefix, str(BIN / "cplane"), "doctor", "--local", "-o", "json")
    checks = json.loads(done.stdout)["checks"]
    assert done.returncode == (0 if all(one["ok"] for one in checks) else 1)
    for one in checks:
        assert one["needed_for"]
        assert one["ok"] or one["remedy"]
    return {one["name"]: one for one in checks}


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Agent]:
    """An agent that is not started."""
    agent = Agent(tmp_path, NAME)
    yield agent
    agent.remove()


@pytest.mark.root
@needs_root
def test_an_agent_mounts_the_bpffs_that_is_missing_and_doctor_said_it_would(programs: Path, tmp_path: Path) -> None:
    with (
        mounts("umount --lazy /sys/fs/bpf") as there,
        site(tmp_path, programs, start=False, prefix=there.prefix) as place,
    ):
        assert "the agent mounts it" in examined(place.agent, *there.prefix)["bpffs"]["detail"]
        place.agent.start()
        pins = there.path(place.agent.bpf_root)
        assert {path.name for path in pins.iterdir()} == {"maps", "progs", "links"}
        assert not place.agent.bpf_root.exists()
        for name in ("frontend", "backend"):
            place.pods.add(name)
        place.apply(policy("backend", "backend", "ingress: [{}]"))
        asked, other_way = (
            place.questions(("frontend", "backend"), ("tcp",))[:2],
            place.questions(("backend", "frontend")),
        )
        assert place.wrong(lambda asked: asked.target != "backend", [*asked, *other_way]) == []
        assert place.unequal() == []
        place.agent.kill()
        place.agent.start()
        assert place.unequal() == []


@pytest.mark.root
@needs_root
def test_without_kernel_types_and_cgroups_pods_are_served_and_doctor_names_what_is_off(
    programs: Path, tmp_path: Path
) -> None:
    with (
        mounts(
            "mount -t tmpfs none /sys/kernel/btf",
            "for one in $(awk '$3 == \"cgroup2\" {print $2}' /proc/self/mounts); do umount --lazy $one; done",
        ) as there,
        site(tmp_path, programs, start=False, prefix=there.prefix) as place,
    ):
        found = examined(place.agent, *there.prefix)
        assert {name for name, one in found.items() if not one["ok"]} >= {"btf", "cgroup2"}
        assert "CONFIG_DEBUG_INFO_BTF=y" in found["btf"]["remedy"]
        assert found["cgroup2"]["remedy"].startswith("mount -t cgroup2 ")
        place.agent.start()
        for name in ("frontend", "backend"):
            place.pods.add(name)
        assert place.wrong(lambda _: True, place.questions(("frontend", "backend"))) == []


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("prefix", [NO_CAPABILITY, NO_BPF], ids=["no capability", "no CAP_BPF"])
def test_without_capabilities_the_agent_says_what_it_may_not_and_doctor_how_to_get_it(
    idle: Agent, programs: Path, prefix: tuple[str, ...]
) -> None:
    found = examined(idle, *prefix)
    assert not found["capabilities"]["ok"]
    assert "CAP_BPF" in found["capabilities"]["detail"]
    assert found["capabilities"]["remedy"] == "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
    assert not found["lpm_trie"]["ok"]
    assert all("a kernel" not in found[name]["remedy"] for name in ("lpm_trie", "lru_hash", "redirect_peer", "xdp"))
    powerless = Agent(idle.folder, NAME, prefix=prefix)
    (powerless.state / "programs").parent.mkdir(parents=True)
    (powerless.state / "programs").symlink_to(programs)
    status, words = powerless.fails_to_start()
    assert status == 1
    assert "Operation not permitted" in words
    assert "(`cplane doctor` shows what this machine lacks)" in words
    assert "Traceback" not in words


@pytest.mark.root
@needs_root
def test_doctor_knows_that_the_capabilities_of_a_user_namespace_do_not_count(idle: Agent) -> None:
    found = examined(idle, "unshare", "--user", "--map-root-user")
    assert not found["capabilities"]["ok"]
    assert "user namespace" in found["capabilities"]["detail"]
    assert "user namespace" in found["lru_hash"]["remedy"]


def test_the_memory_datapath_needs_no_capability(tmp_path: Path) -> None:
    agent = Agent(tmp_path, NAME, datapath="memory", prefix=NO_CAPABILITY if os.geteuid() == 0 else ())
    try:
        agent.start()
        agent.cplane("policy", "apply", "-f", "-", "--wait", given=policy("web", "web", "ingress: [{}]"))
        assert asking.status(agent).in_sync
        assert agent.stop() == 0
    finally:
        agent.remove()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--hubble-ring-records", "1000"), "hubble.ring_records: 1000 is not a power of two from 1024 to 16777216"),
        (("--hubble-ring-records", "many"), "hubble.ring_records: a whole number is wanted, not 'many'"),
        (
            ("--ipv4-pod-cidr", "10.0.0.1/24"),
            "ipv4_pod_cidr: '10.0.0.1/24' has bits set after its length: write 10.0.0.0/24",
        ),
        (("--ipv4-pod-cidr", "10.0.0.0/31"), "ipv4_pod_cidr: /31 leaves no address for a pod"),
        (("--ipv6-pod-cidr", "fe80::/64"), "ipv6_pod_cidr: fe80::/64 is not unicast space that can be routed"),
        (("--ipv4-pod-cidr", "", "--ipv6-pod-cidr", ""), "ipv4_pod_cidr: empty, as is ipv6_pod_cidr"),
        (("--state-dir", "relative"), "state_dir: 'relative' is not an absolute path"),
        (("--run-dir", "/" + "x" * 100), "run_dir: longer than 95 bytes: a socket's path would not fit"),
        (("--cluster-name", "Big Cluster"), "cluster_name: 'Big Cluster' is not 1 to 32 lower-case letters"),
        (
            ("--log", "mysql://x"),
            "log: 'mysql://x' is neither memory, sqlite:///PATH with an absolute path, nor postgresql:",
        ),
        (("--hubble-listen-tcp", ":4244"), "hubble.listen_tcp: needs hubble.tls_cert and hubble.tls_key"),
        (("--hubble-tls-key", "/k.pem"), "hubble.tls_cert: a certificate and its key are given together"),
        (("--config", "/no/such.yaml"), "config: cannot read /no/such.yaml: No such file or directory"),
        (("--datapath", "hardware"), "'hardware' is not one of 'kernel', 'memory'"),
        (("--no-such-flag",), "No such option"),
        (("argument",), "Got unexpected extra argument"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_wrong_flag_ends_the_agent_with_2_and_its_key(idle: Agent, options: tuple[str, ...], told: str) -> None:
    status, words = Agent(idle.folder, NAME, datapath="memory", options=options).fails_to_start()
    assert status == 2
    assert told in words
    assert not idle.state.exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stat_dir: /x", "stat_dir: unknown key; did you mean state_dir? ("),
        ("hubble: {ring_record: 1}", "hubble.ring_record: unknown key; did you mean hubble.ring_records? ("),
        ("hubble: {ring_records: many}", "hubble.ring_records: a whole number is wanted, not 'many' ("),
        ("cluster_name: 5", "cluster_name: text is wanted, not 5 ("),
        ("cluster_name: a\ncluster_name: b", "cluster_name: the key stands there twice ("),
        ("- a\n- b", " is not a mapping of keys to values"),
        ("cluster_name: a\n---\ncluster_name: b", " has 2 documents; one is read"),
        ("cluster_name: [", "line "),
        ("cluster_name: \xff".encode("latin-1"), "not UTF-8: byte 14 is 0xff"),
    ],
)
def test_a_wrong_file_ends_the_agent_with_2_and_the_key_and_the_file(idle: Agent, text: str | bytes, told: str) -> None:
    file = idle.folder / "agent.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, words = Agent(idle.folder, NAME, datapath="memory", options=("--config", str(file))).fails_to_start()
    assert status == 2
    assert told in words
    assert str(file) in words


def test_everything_that_is_wrong_is_told_at_once(idle: Agent) -> None:
    file = idle.folder / "agent.yaml"
    file.write_text("node_nam: x\nipv4_pod_cidr: ten\n")
    options = ("--config", str(file), "--hubble-ring-records", "3", "--state-dir", "x")
    status, words = Agent(idle.folder, NAME, datapath="memory", options=options).fails_to_start()
    assert status == 2
    keys = {line.removeprefix("cplane-agent: ").partition(":")[0] for line in words.splitlines()}
    assert keys == {"node_nam", "ipv4_pod_cidr", "hubble.ring_records", "state_dir"}


def test_a_variable_that_nobody_knows_ends_the_agent_with_2(idle: Agent) -> None:
    done = idle.run("env", "CPLANE_RUNDIR=/x", *Agent(idle.folder, NAME, datapath="memory").command)
    assert done.returncode == 2
    assert "CPLANE_RUNDIR: unknown variable; did you mean CPLANE_RUN_DIR?" in done.stderr
