"""The command line as a process of its own, against the admin socket."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from time import perf_counter

import anyio
import pytest
import yaml
from click.testing import CliRunner

from cplane import __version__
from cplane.cli.main import cli
from cplane.eventlog.store import SqliteLog
from cplane.events.envelope import NODE, Proposed
from cplane.events.node import NodeAddressesChanged
from tests.support.admin import ALLOW_WEB, DENY_ALL, administered, cplane, run
from tests.support.clock import TickingClock
from tests.support.engine import ListEngine
from tests.support.scenario import pod

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
ROOT = Path(__file__).parent.parent.parent.parent.parent


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
def engine() -> ListEngine:
    return ListEngine(pod("web", "k8s:app=web", ifindex=10), pod("client", "k8s:app=client", ifindex=11))


@pytest.fixture
async def path(engine: ListEngine, tmp_path: Path) -> AsyncIterator[Path]:
    """A socket with an agent behind it."""
    socket = tmp_path / "cpt.sock"
    async with administered(engine, socket):
        yield socket


async def test_a_policy_lives_from_apply_to_delete(path: Path, engine: ListEngine):
    applied = await cplane(path, "policy", "apply", "-f", "-", "--wait", stdin=f"{ALLOW_WEB}---\n{DENY_ALL}")
    assert (applied.code, applied.err) == (0, "")
    assert applied.out == (
        "CiliumNetworkPolicy shop/web created\n"
        "CiliumClusterwideNetworkPolicy nothing created\n"
        f"position {engine.head}\n"
    )
    shown = await cplane(path, "policy", "get", "web", "-n", "shop")
    assert yaml.safe_load(shown.out) == yaml.safe_load(ALLOW_WEB)
    assert (await cplane(path, "policy", "get", "shop/web")).out == shown.out
    again = await cplane(path, "policy", "apply", "-f", "-", "-o", "json", stdin=shown.out)
    assert [one["outcome"] for one in json.loads(again.out)["policies"]] == ["unchanged"]
    deleted = await cplane(path, "policy", "delete", "nothing", "--kind", "ccnp")
    assert (deleted.code, deleted.out) == (
        0,
        f"CiliumClusterwideNetworkPolicy nothing deleted\nposition {engine.head}\n",
    )
    assert len(engine.world.policies) == 1


async def test_every_error_is_a_line_with_document_and_path_and_the_exit_code_is_1(path: Path, tmp_path: Path):
    file = anyio.Path(tmp_path / "p.yaml")
    await file.write_text(f"{ALLOW_WEB}---\n{DENY_ALL.replace('ingress', 'ingres').replace('name: nothing', 'nam: x')}")
    refused = await cplane(path, "policy", "apply", "-f", str(file))
    assert (refused.code, refused.out) == (1, "")
    lines = refused.err.splitlines()
    assert all(line.startswith(f"cplane: {file}, document 2, ") for line in lines)
    assert {line.split(", ")[2].split(":")[0] for line in lines} >= {"metadata.nam", "spec.ingres"}


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "told"),
    [
        (("policy", "apply", "-f", "-"), b"\xff", 1, "not UTF-8: byte 0 is 0xff"),
        (("policy", "apply", "-f", "-"), b"", 1, "the text has no object"),
        (("policy", "apply", "-f", "/no/such"), b"", 2, "No such file or directory"),
        (("policy", "get", "x"), b"", 1, "no such policy: CiliumNetworkPolicy default/x"),
        (("policy", "delete"), b"", 2, "give a policy's NAME, or a file with -f"),
        (("policy", "get", "x", "--kind", "netpol"), b"", 1, "no such policy: NetworkPolicy default/x"),
        (("policy", "status", "x", "--kind", "ccg"), b"", 1, "no such policy: CiliumCIDRGroup x"),
        (("config", "PolicyMode=x"), b"", 2, "there is no option 'PolicyMode'; options are PolicyEnforcement, Pol"),
        (("config", "Debug=on"), b"", 2, "Debug: 'on' is not Enabled or Disabled"),
        (("config", "Debug=Enabled"), b"", 1, "Debug: the datapath of this agent has no programs"),
        (("config", "PolicyAuditMode"), b"", 2, "PolicyAuditMode has no value: write PolicyAuditMode=VALUE"),
        (("config", "PolicyAuditMode=on"), b"", 2, "PolicyAuditMode: 'on' is not Enabled or Disabled"),
        (("config", "PolicyEnforcement=off"), b"", 2, "'off' is not default, always or never"),
        (("config", "PolicyAuditMode=true", "policyauditmode=true"), b"", 2, "PolicyAuditMode is given twice"),
        (("endpoint", "config", "1", "PolicyEnforcement=never"), b"", 2, "options are PolicyAuditMode"),
        (("endpoint", "config", "999"), b"", 1, "there is no endpoint 999"),
        (("endpoint", "get", "999"), b"", 1, "there is no endpoint 999"),
        (("endpoint", "get", "x"), b"", 2, "'x' is not a valid integer: `cplane endpoint list` shows"),
        (("policy", "get", "\udcff"), b"", 2, "'\\udcff' has bytes that are no UTF-8"),
        (("endpoint", "relabel", "1", "a=\udcff"), b"", 2, "'a=\\udcff' has bytes that are no UTF-8"),
        (
            ("service", "upsert", "a/b", "--frontend", "10.96.0.9:80", "--health-path", "/\udcff"),
            b"",
            2,
            "has bytes that are no UTF-8",
        ),
        (("--server", "unix:///\udcff", "status"), b"", 2, "has bytes that are no UTF-8"),
        (("endpoint", "get", "++1"), b"", 2, "'++1' is not a valid integer"),
        (("endpoint", "get", "4294967297"), b"", 2, "4294967297 is larger than 4294967295"),
        (("endpoint", "relabel", "4294967297", "app=x"), b"", 2, "4294967297 is larger than 4294967295"),
        (("bpf", "lxc", "list", "--endpoint", "4294967297"), b"", 2, "4294967297 is larger than 4294967295"),
        (("wait", "--position", "18446744073709551617"), b"", 2, "is larger than 18446744073709551615"),
        (("log", "--from", "18446744073709551617"), b"", 2, "is larger than 18446744073709551615"),
        (("identity", "get", "9999"), b"", 1, "there is no identity 9999"),
        (
            ("wait", "--position", "999", "--timeout", "0.01"),
            b"",
            1,
            "position 999 is not in the datapath after 0.01 s",
        ),
        (("probe", "1.1.1.1", "::1"), b"", 1, "of two families"),
        (("probe", "1.1.1.1", "1.1.1.2", "--protocol", "x"), b"", 2, "'x' is none of tcp"),
        (("log", "--from", "1", "--last", "1"), b"", 2, "give one of them"),
        (("log", "verify"), b"", 1, "position 4: the digest does not fit"),
        (("doctor",), b"", 1, ""),
        (("nothing",), b"", 2, "No such command"),
        (("--server", "nonsense", "status"), b"", 2, "write host:port"),
        (("--server", "unix:///no/such.sock", "status"), b"", 2, "there is no such socket"),
    ],
)
async def test_the_exit_code_tells_refusal_from_wrong_usage_and_no_agent(
    path: Path, arguments: tuple[str, ...], stdin: bytes, code: int, told: str
):
    ran = await run(path, *arguments, stdin=stdin)
    assert (ran.code, told in ran.err) == (code, True), ran


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        (("policy", "list"), "KIND  NAMESPACE  NAME  RULES  PREFIXES  AUDIT"),
        (("policy", "status"), "POLICY  RULE  EFFECT  ENDPOINTS  PEERS  ENTRIES  STATE"),
        (("config",), "PolicyEnforcement: default PolicyAuditMode: Disabled position:"),
        (("config", "policyauditmode=disabled"), "PolicyEnforcement: default PolicyAuditMode: Disabled position:"),
        (("endpoint", "config", "1"), "PolicyAuditMode: Disabled position:"),
        (("endpoint", "list"), "ENDPOINT  POD  IPV4  IPV6  IDENTITY  LABELS"),
        (("endpoint", "get", "1"), "id:"),
        (("identity", "list"), "IDENTITY  SCOPE  ENDPOINTS  LABELS"),
        (("identity", "get", "1"), "identity: 1"),
        (("ip", "list"), "PREFIX  IDENTITY  SOURCE  ENDPOINT  LABELS"),
        (("bpf", "policy", "get", "1"), "POLICY  PLANE  DIRECTION  PEER  PROTOCOL  PORT  ACTION  AUTH  PROXY_PORT"),
        (("bpf", "policy", "list"), "POLICY  PLANE  DIRECTION  PEER  PROTOCOL  PORT  ACTION  AUTH  PROXY_PORT"),
        (("bpf", "ipcache", "list"), "PREFIX  IDENTITY  TUNNEL  KEY  FLAGS"),
        (("bpf", "lxc", "list"), "ADDRESS  ENDPOINT  IDENTITY  POLICY"),
        (("bpf", "devices", "list"), "IFINDEX  ENDPOINT  IDENTITY  POLICY"),
        (("status",), "version:"),
        (("log", "--last", "2"), "POSITION  TIME  ACTOR  TYPE  SUMMARY"),
        (("wait", "--position", "1"), "position 1"),
        (("policy", "wait", "--position", "1"), "position 1"),
        (("probe", "10.0.0.1", "10.0.0.2", "--port", "81"), "DROPPED (POLICY_DENIED, 133): no rule allows it"),
        (("probe", "10.0.0.1", "10.0.0.2", "--port", "80"), "FORWARDED: allowed by default/web"),
        (("endpoint", "relabel", "1", "app=x", "io.kubernetes.pod.namespace=shop"), "endpoint 1 has identity"),
        (("version",), f"cplane {__version__}"),
    ],
)
async def test_every_answer_comes_as_table_json_and_yaml(path: Path, arguments: tuple[str, ...], headers: str):
    table = await run(path, *arguments)
    assert (table.code, table.err) == (0, "")
    assert " ".join(table.out.split()).startswith(" ".join(headers.split()))
    as_json = await run(path, *arguments, "-o", "json")
    as_yaml = await run(path, *arguments, "-o", "yaml")
    if arguments[0] == "log":
        loaded = [json.loads(line) for line in as_json.out.splitlines()]
        assert loaded == list(yaml.safe_load_all(as_yaml.out))
    elif arguments[0] not in {"status", "version"}:  # the uptime differs
        assert json.loads(as_json.out) == yaml.safe_load(as_yaml.out)
    assert as_json.code == as_yaml.code == 0


KNP = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop, annotations: {policy.cplane.io/audit: "true"}}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""
GROUP = """\
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: partners}
spec: {externalCIDRs: [192.0.2.0/24, 2001:db8::/32]}
"""


@pytest.mark.parametrize("kind", ["knp", "netpol", "NetworkPolicy", "networkpolicies"])
async def test_a_kubernetes_policy_is_administered_like_the_others(path: Path, engine: ListEngine, kind: str):
    applied = await run(path, "policy", "apply", "-f", "-", stdin=KNP)
    assert applied.out == f"NetworkPolicy shop/closed created\nposition {engine.head}\n"
    listed = await run(path, "policy", "list")
    assert listed.out.splitlines()[1].split() == ["NetworkPolicy", "shop", "closed", "1", "-", "yes"]
    shown = await run(path, "policy", "get", "closed", "-n", "shop", "--kind", kind)
    assert yaml.safe_load(shown.out) == yaml.safe_load(KNP)
    deleted = await run(path, "policy", "delete", "shop/closed", "--kind", kind)
    assert (deleted.code, deleted.out) == (0, f"NetworkPolicy shop/closed deleted\nposition {engine.head}\n")


@pytest.mark.parametrize("kind", ["ccg", "CiliumCIDRGroup", "ciliumcidrgroups"])
async def test_a_group_of_prefixes_is_administered_like_the_others(path: Path, engine: ListEngine, kind: str):
    applied = await run(path, "policy", "apply", "-f", "-", stdin=GROUP)
    assert applied.out == f"CiliumCIDRGroup partners created\nposition {engine.head}\n"
    listed = await run(path, "policy", "list")
    assert listed.out.splitlines()[1].split() == ["CiliumCIDRGroup", "-", "partners", "-", "2", "-"]
    status = await run(path, "policy", "status", "partners", "--kind", kind)
    assert "CiliumCIDRGroup partners  -     2 prefixes" in status.out
    assert (await run(path, "policy", "delete", "partners", "--kind", kind)).code == 0
    assert not engine.world.policies


async def test_the_status_of_policies_says_why_something_is_not_enforced(path: Path, engine: ListEngine):
    rule = 'toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {l7proto: memcache}}]'
    text = ALLOW_WEB.replace('toPorts: [{ports: [{port: "80", protocol: TCP}]}]', rule)
    await run(path, "policy", "apply", "-f", "-", stdin=f"{text}---\n{KNP}")
    shown = await run(path, "policy", "status")
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    no_proxy = "there is no proxy for memcache: this traffic is dropped (178)"
    by_annotation = "the annotation policy.cplane.io/audit is true"
    assert lines[1:] == [
        "CiliumNetworkPolicy shop/web spec default deny ingress 1 - - enforced",
        f"spec.ingress[0].toPorts[0] ingress allow 1 2 not enforced: {no_proxy}",
        f"NetworkPolicy shop/closed spec default deny ingress 2 - - audited: {by_annotation}",
        f"revision 2, position {engine.head}, enforcement default, audit mode Disabled",
    ]
    one = json.loads((await run(path, "policy", "status", "web", "-n", "shop", "-o", "json")).out)
    assert [policy["rules"][0]["terms"][0]["enforcement"] for policy in one["policies"]] == ["not_enforced"]
    assert one["options"] == {"policy_enforcement": "default", "policy_audit": False}
    narrowed = await run(path, "policy", "status", "-n", "other", "-o", "json")
    assert json.loads(narrowed.out)["policies"] == []


async def test_options_are_changed_and_shown(path: Path, engine: ListEngine):
    changed = await run(path, "config", "PolicyEnforcement=Always", "PolicyAuditMode=Enabled", "--wait")
    assert changed.out.split() == [
        *("PolicyEnforcement:", "always", "PolicyAuditMode:", "Enabled", "position:", str(engine.head))
    ]
    assert (engine.world.options.policy_enforcement, engine.world.options.policy_audit) == ("always", True)
    endpoint = await run(path, "endpoint", "config", "1")
    assert endpoint.out.splitlines()[0].split(maxsplit=1)[1] == "Disabled (the agent's own is Enabled)"
    own = json.loads((await run(path, "endpoint", "config", "1", "PolicyAuditMode=Enabled", "-o", "json")).out)
    assert (own["options"], own["agent"]) == ({"PolicyAuditMode": "Enabled"}, {"PolicyAuditMode": "Enabled"})
    shown = json.loads((await run(path, "config", "-o", "json")).out)
    assert shown["options"] == {"PolicyEnforcement": "always", "PolicyAuditMode": "Enabled"}


async def test_rows_that_differ_are_marked_and_counted(path: Path, engine: ListEngine):
    rows = engine.targets["devices"].rows
    first, second = sorted(rows)
    rows[second] = rows[second]._replace(identity=4711)
    del rows[first]
    shown = await run(path, "bpf", "devices", "list")
    assert shown.code == 0
    assert [line[:1] for line in shown.out.splitlines()[1:]] == ["-", "-", "+"]
    assert "2 of 2 rows differ" in shown.err
    as_json = json.loads((await run(path, "bpf", "devices", "list", "-o", "json")).out)
    assert [row["difference"] for row in as_json["rows"]] == ["missing", "changed"]
    assert as_json["rows"][0]["actual"] is None
    assert as_json["rows"][1]["actual"]["identity"] == "4711"


async def test_the_doctor_lists_what_is_lacking(path: Path):
    shown = await run(path, "doctor")
    assert shown.code == 1
    assert "LACKING  btf" in " ".join(shown.out.split(" "))
    assert json.loads((await run(path, "doctor", "-o", "json")).out)["checks"][1]["remedy"] == "another kernel"


async def test_a_log_file_is_verified_without_an_agent(tmp_path: Path):
    file = tmp_path / "log.db"
    async with SqliteLog.open(str(file), TickingClock()) as log:
        for address in ("10.0.0.1", "10.0.0.2"):
            event = NodeAddressesChanged(name="n1", addresses=(address,))
            await log.append(Proposed(events=((NODE, event),), expected={NODE: log.head}, actor="agent"))
    sound = await run(tmp_path / "no.sock", "log", "verify", "--file", str(file), "-o", "json")
    assert (sound.code, json.loads(sound.out)["events"]) == (0, 2)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE events SET actor = 'nobody' WHERE position = 2")
    broken = await run(tmp_path / "no.sock", "log", "verify", "--file", str(file))
    assert broken.code == 1
    assert broken.out.startswith("log:     NOT SOUND\nevents:  1\n")
    assert broken.err.startswith("cplane: position 2: ")


async def test_following_the_log_prints_events_as_they_come_and_an_interrupt_is_its_end(path: Path, engine: ListEngine):
    command = [sys.executable, "-m", "cplane.cli.main", "--server", f"unix://{path}"]
    follow = [*command, "log", "-f", "--last", "1", "-o", "json"]
    async with await anyio.open_process(follow, cwd=ROOT, stderr=None) as process:
        assert process.stdout is not None
        with anyio.fail_after(30):
            text = await process.stdout.receive()
            before = engine.head
            assert json.loads(text)["position"] == before
            await run(path, "endpoint", "relabel", "1", "app=x")
            while text.count(b"\n") < 1 + engine.head - before:
                text += await process.stdout.receive()
            process.send_signal(2)
            assert await process.wait() == 0
    assert [json.loads(line)["position"] for line in text.splitlines()] == list(range(before, engine.head + 1))


async def test_the_server_can_be_named_in_the_environment(path: Path):
    command = [sys.executable, "-m", "cplane.cli.main", "status", "-o", "json"]
    environment = {"CPLANE_SERVER": f"unix://{path}", "PYTHONPATH": str(ROOT)}
    done = await anyio.run_process(command, env=environment, check=False)
    assert (done.returncode, json.loads(done.stdout)["node"]) == (0, "n1")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion_script(shell: str):
    done = CliRunner().invoke(cli, ["completion", shell], prog_name="cplane")
    assert done.exit_code == 0
    assert "_CPLANE_COMPLETE" in done.output


def test_commands_do_not_load_what_only_the_agent_needs():
    script = (
        "import sys, cplane.cli.main, cplane.transport.client, cplane.pb.cplane.admin.v1;"
        "print([m for m in ('sqlalchemy', 'numpy', 'pyroute2', 'alembic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_names_every_command_and_the_exit_codes_and_how_long_it_took(record_property):
    began = perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "cplane.cli.main", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    record_property("help_s", round(perf_counter() - began, 3))
    assert "Exit codes:" in done.stdout
    for command in (
        "policy",
        "config",
        "endpoint",
        "identity",
        "ip",
        "bpf",
        "status",
        "doctor",
        "wait",
        "log",
        "probe",
    ):
        assert f"\n  {command} " in done.stdout
