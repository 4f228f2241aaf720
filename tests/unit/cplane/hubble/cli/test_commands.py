"""The command against a real observer, in this process where that will do."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import yaml
from click.testing import CliRunner

from cplane import __version__
from cplane.hubble.cli.main import cli
from cplane.hubble.origin import TYPE_URL
from cplane.hubble.parser.threefour import Parser
from cplane.hubble.ring import LossSource
from cplane.hubble.server import services
from cplane.hubble.store import FlowStore
from cplane.pb.observer import observer_pb2 as pb
from cplane.transport.grpc import TcpAddress, UnixAddress, serve
from cplane.transport.tls import server_context
from datapath.notify.records import RecordFlags, RecordType
from tests.support.flows import API, START_NS, WEB, World, records, store_of
from tests.support.observing import StillClock, get_flows, observed
from tests.support.responses import as_json
from tests.support.tree import ROOT

PATIENCE_S = 60.0  # for a process on a machine that may be busy
pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DENIED = {"verdict": -133, "type": RecordType.POLICY_VERDICT, "flags": 0}
DROP = {"type": RecordType.DROP, "subtype": 133, "flags": 0}
PING6 = {"src": "fd00::11", "dst": "fd00::12", "protocol": 58, "icmp_type": 128}
REPLY = {
    "flags": RecordFlags.REPLY_KNOWN | RecordFlags.REPLY,
    "tcp_flags": 18,
    "src": "10.244.0.12",
    "dst": "10.244.0.11",
    "sport": 80,
    "dport": 43512,
    "src_identity": API,
    "dst_identity": WEB,
    "src_lxc": 12,
    "dst_lxc": 11,
}
WEB_END, API_END = "shop/web-7f9:43512 (ID:24119)", "shop/api-55c:80 (ID:31001)"
PINGED = "shop/web-7f9 (ID:24119) -> shop/api-55c (ID:31001)"
REFUSED = f"{WEB_END} <> shop/api-55c:81 (ID:31001)"
LINES = [
    f"Jul 24 10:02:11.000: {WEB_END} -> {API_END} to-endpoint FORWARDED (TCP Flags: SYN)",
    f"Jul 24 10:02:11.001: {WEB_END} <- {API_END} to-endpoint FORWARDED (TCP Flags: SYN, ACK)",
    f"Jul 24 10:02:11.002: {REFUSED} policy-verdict:none INGRESS DENIED (TCP Flags: SYN)",
    f"Jul 24 10:02:11.003: {REFUSED} Policy denied DROPPED (TCP Flags: SYN)",
    f"Jul 24 10:02:11.004: {PINGED} to-endpoint FORWARDED (ICMPv6 EchoRequest)",
]


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
def store() -> FlowStore:
    return store_of(records({}, REPLY, {**DENIED, "dport": 81}, {**DROP, "dport": 81}, PING6))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hubble.sock"


@pytest.fixture
async def served(store: FlowStore, path: Path) -> AsyncIterator[Path]:
    """A socket with an observer behind it."""
    async with observed(store, path, version=__version__):
        yield path


async def run(path: Path, *arguments: str, **environment: str) -> Ran:
    """Run the command in this process, in a thread: quicker than a process of its own."""
    variables = {"HUBBLE_SERVER": f"unix://{path}", "XDG_CONFIG_HOME": str(path.parent), **environment}
    done = await anyio.to_thread.run_sync(lambda: CliRunner().invoke(cli, arguments, prog_name="hubble", env=variables))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Ran(done.exit_code, done.stdout, done.stderr)


class Process:
    """The command as a process of its own, which is gone at the end of the block."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cplane.hubble.cli.main", "--server", f"unix://{path}", *arguments],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    async def line(self, name: str = "stdout") -> bytes:
        """The next line of its standard output or error."""
        stream = getattr(self._process, name)
        line: bytes = await anyio.to_thread.run_sync(stream.readline)
        return line

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def stop_reading(self) -> None:
        """Nobody reads its standard output any more."""
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.stdout = None

    async def until_it_blocks(self) -> None:
        """It waits for a reader of what it writes."""
        waits = anyio.Path(f"/proc/{self._process.pid}/wchan")
        with anyio.fail_after(PATIENCE_S):
            while "pipe" not in await waits.read_text():
                await anyio.lowlevel.checkpoint()

    async def gone(self) -> int:
        """Its exit code, without reading on."""
        code: int = await anyio.to_thread.run_sync(self._process.wait, PATIENCE_S)
        return code

    async def end(self) -> tuple[int, bytes]:
        """Its exit code, and what it still had to say on its standard error."""
        with anyio.fail_after(PATIENCE_S):
            _, told = await anyio.to_thread.run_sync(self._process.communicate)
        return self._process.returncode, told


async def test_flows_are_lines(served: Path):
    for words in (("observe",), ("observe", "flows"), ("observe", "--last", "99", "flows")):
        assert await run(served, *words) == Ran(0, "".join(f"{line}\n" for line in LINES), "")


async def test_json_is_what_the_server_sent(store: FlowStore, path: Path):
    async with observed(store, path, version=__version__) as channel:
        asked = pb.GetFlowsRequest()
        asked.extensions.type_url = TYPE_URL
        sent = await get_flows(channel)(asked)
        shown = await run(path, "observe", "--all", "-o", "json")
        masked = await run(path, "observe", "--all", "-o", "json", "--field-mask", "verdict")
    assert (shown.code, shown.err) == (0, "")
    assert [json.loads(line) for line in shown.out.splitlines()] == [as_json(one) for one in sent]
    assert "cplane:position=" in shown.out
    assert "position" not in masked.out


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (("--last", "2"), (3, 4)),
        (("--first", "2"), (0, 1)),
        (("--verdict", "DROPPED"), (2, 3)),
        (("--not", "--verdict", "DROPPED"), (0, 1, 4)),
        (("--pod", "shop/web"), (0, 1, 2, 3, 4)),
        (("--from-pod", "shop/api"), (1,)),
        (("--to-namespace", "shop", "--protocol", "icmp"), (4,)),
        (("-n", "data"), ()),
        (("--label", "tier=back", "--not", "--to-label", "tier"), (1,)),
        (("--from-identity", str(API)), (1,)),
        (("--ip", "fd00::/64"), (4,)),
        (("-6",), (4,)),
        (("-4", "--port", "81"), (2, 3)),
        (("--type", "policy-verdict", "--type", "drop:133"), (2, 3)),
        (("--type", "trace:to-endpoint", "--tcp-flags", "syn,ack"), (1,)),
        (("--drop-reason-desc", "POLICY_DENIED", "--type", "drop"), (3,)),
        (("--since", "2024-07-24T10:02:11.003Z"), (3, 4)),
        (("--until", "2024-07-24T10:02:11.001Z"), (0, 1)),
        (("--workload", "Deployment/web", "--traffic-direction", "egress"), (1,)),
        (("--interface", "lxc7", "--node-name", "default/node*", "--cluster", "default"), (0, 1, 2, 3, 4)),
        (("--allowlist", '{"destination_port":["81"]}', "--denylist", '{"event_type":[{"type":5}]}'), (3,)),
        (("--fqdn", "*.example.org"), ()),
        (("--http-status", "404"), ()),
        (("--encrypted",), ()),
    ],
)
async def test_selectors_and_filters_select(served: Path, arguments: tuple[str, ...], numbers: tuple[int, ...]):
    ran = await run(served, "observe", *arguments)
    assert ran == Ran(0, "".join(f"{LINES[number]}\n" for number in numbers), "")


async def test_a_uuid_selects_its_flow(served: Path):
    flows = [json.loads(line)["flow"] for line in (await run(served, "observe", "-o", "json")).out.splitlines()]
    assert (await run(served, "observe", "--uuid", flows[3]["uuid"])).out == f"{LINES[3]}\n"


async def test_every_format_comes_from_the_server(served: Path):
    assert (await run(served, "observe", "--last", "1", "-o", "dict")).out.startswith(
        "  TIMESTAMP: Jul 24 10:02:11.004\n"
    )
    assert (await run(served, "observe", "-o", "table")).out.startswith(
        "TIMESTAMP             SOURCE               DEST"
    )
    masked = await run(served, "observe", "--last", "1", "-o", "jsonpb", "--field-mask", "verdict,source.pod_name")
    assert json.loads(masked.out)["flow"] == {"verdict": "FORWARDED", "source": {"pod_name": "web-7f9"}}
    bare = await run(served, "observe", "--last", "1", "-o", "json", HUBBLE_COMPAT="legacy-json-output")
    assert json.loads(bare.out)["verdict"] == "FORWARDED"
    coloured = await run(served, "observe", "--last", "1", "--color", "always", "--time-format", "rfc3339")
    assert coloured.out.startswith("2024-07-24T10:02:11Z: \x1b[36mshop/web-7f9\x1b[0m")
    numeric = await run(served, "observe", "--first", "1", "--ip-translation=false", "--print-node-name")
    assert numeric.out.startswith("Jul 24 10:02:11.000 [default/node1]: 10.244.0.11:43512 (ID:24119) -> 10.244.0.12:80")


async def test_losses_are_told(store: FlowStore, path: Path):
    store.ring.add_loss(LossSource.KERNEL_RING, 7, START_NS, START_NS + 5_000_000)
    Parser(store, World()).ingest(records({}), START_NS)
    async with observed(store, path):
        shown = await run(path, "observe", "--all")
    assert shown.out.splitlines()[5] == (
        "EVENTS LOST: PERF_EVENT_RING_BUFFER CPU(0) 7 (first: Jul 24 10:02:11.000, last: Jul 24 10:02:11.005)"
    )


NOBODY = "there is no such socket; is the agent running, and is its run directory another one?"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing",), "No such command 'nothing'."),
        (("observe", "--nothing"), "No such option '--nothing'."),
        (("observe", "l7"), "Invalid value for '[flows]': 'l7' is not 'flows'."),
        (("observe", "-o", "xml"), "Invalid value for '-o' / '--output': 'xml' is not one of "),
        (("observe", "--last", "-1"), "Invalid value for '--last': '-1' is not a number of flows."),
        (("observe", "--pod"), "Option '--pod' requires an argument."),
        (
            ("observe", "--follow=maybe"),
            'invalid argument "maybe" for "-f, --follow" flag: it is neither true nor false',
        ),
        (("observe", "--not"), "trailing --not found in the arguments"),
        (
            ("observe", "--pod", "a", "--from-pod", "b"),
            'invalid argument "b" for "--from-pod" flag: filters --from-pod and --pod cannot be combined',
        ),
        (("observe", "--first", "1", "--last", "1"), "cannot set both --first and --last"),
        (("observe", "--since", "x"), "failed to parse the since time: failed to convert x to time"),
        (("observe", "-f", "-o", "table"), "table output format is not compatible with follow mode"),
        (
            ("observe", "--ip", "x"),
            "rpc error: code = InvalidArgument desc = filter source_ip: 'x' is neither an IP address nor a CIDR",
        ),
        (
            ("observe", "--cel-expression", "nothing"),
            "rpc error: code = InvalidArgument desc = filter experimental.cel_expression: error compiling CEL expres",
        ),
        (("observe", "--server", "unix:///no/such.sock"), f"failed to connect to 'unix:///no/such.sock': {NOBODY}"),
        (("--server", "unix:///no/such.sock", "status"), f"failed to connect to 'unix:///no/such.sock': {NOBODY}"),
        (("status", "--server", "nonsense"), "address 'nonsense': write host:port, and an IPv6 host in brackets"),
        (("status", "--timeout", "5"), "--timeout: '5' is not a duration such as 5s, 500ms or 1m30s"),
        (("status", "--config", "/no/such.yaml"), "configuration file /no/such.yaml: there is no such file"),
        (("config", "get", "nothing"), "unknown key: nothing"),
        (
            ("config", "set", "config", "x"),
            "config: a file cannot say which file is meant; use --config or HUBBLE_CONFIG",
        ),
        (("help", "nothing"), "No such command 'nothing'."),
    ],
)
async def test_whatever_is_wrong_is_one_line_and_exit_code_1(served: Path, arguments: tuple[str, ...], told: str):
    ran = await run(served, *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(told)
    assert ran.err.count("\n") == 1


async def test_status_and_namespaces(served: Path):
    shown = await run(served, "status")
    assert shown == Ran(
        0,
        f"Healthcheck (via unix://{served}): Ok\nCurrent/Max Flows: 5/1,024 (0.49%)\nFlows/s: 5.00\n",
        "",
    )
    assert json.loads((await run(served, "status", "-o", "json")).out)["max_flows"] == "1024"
    assert (await run(served, "list", "namespaces")).out == "NAMESPACE\nshop\n"


async def test_a_server_without_an_observer_is_not_healthy(path: Path):
    async with anyio.create_task_group() as group:
        bound = await group.start(_serving, LOCAL)
        ran = await run(path, "status", "--server", bound)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("failed getting status: rpc error: code = NotFound desc =")
        group.cancel_scope.cancel()


async def _serving(
    address: TcpAddress,
    store: FlowStore | None = None,
    version: str = __version__,
    *,
    task_status: anyio.abc.TaskStatus[str],
) -> None:
    """An observer of the store at the address, or nothing but health and reflection, until it is cancelled."""

    async def start(*, task_status: anyio.abc.TaskStatus[tuple[UnixAddress | TcpAddress, ...]]) -> None:
        await serve(services(store, StillClock(), version=version) if store else [], [address], task_status=task_status)

    async with anyio.create_task_group() as group:
        bound = await group.start(start)
        task_status.started(str(bound[0]))


LOCAL = TcpAddress("127.0.0.1", 0)


async def test_a_newer_server_is_warned_of_unless_warnings_are_unwanted(store: FlowStore, path: Path):
    async with observed(store, path, version="99.4.2"):
        warned = await run(path, "observe", "--last", "1")
        silent = await run(path, "observe", "--last", "1", "-s")
        unary = await run(path, "list", "namespaces")
    assert warned == Ran(
        0,
        f"{LINES[4]}\n",
        "Hubble CLI version is lower than Hubble Server, API compatibility is not guaranteed, updating to a matching "
        f"or higher version is recommended (ours {__version__}, theirs 99.4.2)\n",
    )
    assert silent == Ran(0, f"{LINES[4]}\n", "")
    assert unary.err == warned.err


async def test_tls_takes_our_certificate_and_checks_the_servers(store: FlowStore, tmp_path: Path):
    certificate, key = _certificate(tmp_path, "instance.hubble.example")
    tls = server_context(certificate, key, certificate)
    async with anyio.create_task_group() as group:
        bound = await group.start(_serving, TcpAddress("127.0.0.1", 0, tls), store)

        async def ask(*arguments: str) -> tuple[bytes, int, bytes]:
            with Process(tmp_path, "observe", "--last", "1", "--server", f"tls://{bound}", *arguments) as asked:
                line = await asked.line()
                return (line, *await asked.end())

        ours = ("--tls-client-cert-file", certificate, "--tls-client-key-file", key)
        trusted = ("--tls-ca-cert-files", certificate, "--tls-server-name", "instance.hubble.example")
        for taken in ((*ours, *trusted), (*ours, "--tls-allow-insecure")):
            assert await ask(*taken) == (f"{LINES[4]}\n".encode(), 0, b"")
        misnamed = ("--tls-ca-cert-files", certificate, "--tls-server-name", "other")
        for refused in (ours, (*ours, *misnamed)):
            line, code, told = await ask(*refused)
            assert (line, code) == (b"", 1)
            assert told.startswith(f"failed to connect to '{bound}': its certificate is not trusted".encode())
        line, code, told = await ask(*trusted)
        assert (line, code) == (b"", 1)
        assert told.startswith(b"rpc error: code = Unavailable desc = the connection broke")
        group.cancel_scope.cancel()


def _certificate(folder: Path, name: str) -> tuple[str, str]:
    """A certificate for `name` that is its own authority, and its key: paths."""
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName=DNS:{name}"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return certificate, key


async def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as silent, socket.create_server(("127.0.0.1", 0)) as deaf:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        ran = await run(tmp_path / "silent.sock", "status", "--request-timeout", "50ms")
        assert ran == Ran(
            1, "", "failed getting status: rpc error: code = DeadlineExceeded desc = no answer within 0.05 s\n"
        )
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        ran = await run(tmp_path, "status", "--server", f"tls://{address}", "--timeout", "50ms")
        assert ran == Ran(1, "", f"failed to connect to '{address}': no answer within 0.05 s\n")


async def test_following_shows_flows_as_they_come_and_an_interrupt_is_a_good_end(store: FlowStore, served: Path):
    parser = Parser(store, World())
    seen = []
    with Process(served, "observe", "-f", "--last", "1", "-o", "json") as follower:
        for port in (0, 8001, 8002):
            if port:
                parser.ingest(records({"dport": port}), START_NS + 10**9)
                store.changed.notify()
            seen.append(json.loads(await follower.line())["flow"]["l4"])
        follower.interrupt()
        assert await follower.end() == (0, b"")
    assert [one.get("TCP", {}).get("destination_port") for one in seen] == [None, 8001, 8002]


async def test_an_interrupt_before_anything_was_seen_is_a_good_end_too(served: Path):
    with Process(served, "observe", "-f", "--from-port", "1", "-D") as follower:
        while b"connected to" not in await follower.line("stderr"):
            pass
        follower.interrupt()
        assert await follower.end() == (0, b"")


async def test_who_reads_no_further_ends_the_command_without_a_word(path: Path):
    thousand = records(*({"sport": port} for port in range(1, 1001)))
    many = store_of(*([thousand] * 60), capacity=1 << 16)
    async with observed(many, path, version=__version__):
        with Process(path, "observe", "--all") as reader:
            assert (await reader.line()).startswith(b"Jul 24")
            reader.stop_reading()
            assert await reader.end() == (0, b"")


async def test_who_reads_no_further_ends_a_follower_also_when_nothing_comes(served: Path):
    with Process(served, "observe", "--last", "1", "-f") as follower:
        assert (await follower.line()).startswith(b"Jul 24")
        follower.stop_reading()
        assert await follower.end() == (0, b"")


async def test_an_interrupt_is_a_good_end_where_nobody_reads(path: Path):
    thousand = records(*({"sport": port} for port in range(1, 1001)))
    many = store_of(*([thousand] * 60), capacity=1 << 16)
    async with observed(many, path, version=__version__):
        with Process(path, "observe", "--all", "-f") as follower:
            await follower.line()
            await follower.until_it_blocks()
            follower.interrupt()
            assert await follower.gone() == 0


async def test_output_that_cannot_be_written_is_told(served: Path):
    command = [sys.executable, "-m", "cplane.hubble.cli.main", "--server", f"unix://{served}", "observe"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    async with await anyio.open_file("/dev/full", "wb") as full:
        done = await anyio.run_process(command, stdout=full.wrapped, check=False, env=environment)
    assert (done.returncode, done.stderr) == (1, b"cannot write to standard output: No space left on device\n")


async def test_a_server_that_goes_is_told(store: FlowStore, path: Path):
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(observed(store, path, version=__version__))
        with Process(path, "observe", "-f", "--last", "1") as follower:
            await follower.line()
            await stack.aclose()
            code, told = await follower.end()
    assert code == 1
    assert told.startswith(b"rpc error: code = Unavailable desc = ")


async def test_debug_tells_what_is_asked_and_where(served: Path):
    told = (await run(served, "observe", "--last", "1", "-D")).err.splitlines()
    assert told[0].startswith("debug: asking for number: 1 ")
    assert told[1] == f"debug: connected to unix://{served}"


async def test_the_configuration_file_is_shown_and_changed(tmp_path: Path):
    file = tmp_path / "hubble" / "config.yaml"
    where = tmp_path / "x"
    for words in (("set", "server", "relay:4245"), ("set", "tls", "true"), ("set", "tls-ca-cert-files", "a,b")):
        assert await run(where, "config", *words, HUBBLE_SERVER="") == Ran(0, "", "")
    assert yaml.safe_load(file.read_text()) == {"server": "relay:4245", "tls": True, "tls-ca-cert-files": ["a", "b"]}
    assert (await run(where, "config", "get", "server", HUBBLE_SERVER="")).out == "relay:4245\n"
    assert (await run(where, "config", "get", "tls", "--tls=false", HUBBLE_SERVER="")).out == "false\n"
    shown = yaml.safe_load((await run(where, "config", "view", HUBBLE_SERVER="env:1")).out)
    assert (shown["server"], shown["tls"], shown["config"]) == ("env:1", True, str(file))
    assert (await run(where, "config", "get", HUBBLE_SERVER="env:1")).out.count("\n") > 8
    assert (await run(where, "config", "reset", "tls")).code == 0
    assert yaml.safe_load(file.read_text())["tls"] is False
    assert (await run(where, "config", "reset")).code == 0
    assert yaml.safe_load(file.read_text())["server"] == "localhost:4245"
    wrong = await run(where, "config", "set", "tls", "maybe")
    assert wrong == Ran(1, "", "--tls: 'maybe' is neither true nor false\n")


def test_the_version_is_told_in_both_ways():
    told = [CliRunner().invoke(cli, words, prog_name="hubble") for words in (["--version"], ["version"])]
    assert {(one.exit_code, one.output) for one in told} == {(0, told[0].output)}
    assert told[0].output.startswith(f"hubble {__version__} compiled with CPython 3.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_shells_get_a_completion_script(shell: str):
    done = CliRunner().invoke(cli, ["completion", shell], prog_name="hubble")
    assert done.exit_code == 0
    assert "_HUBBLE_COMPLETE" in done.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("observe --verd", {"--verdict"}),
        ("observe --verdict DR", {"DROPPED"}),
        ("observe --type trace:to-e", {"trace:to-endpoint"}),
        ("observe -o js", {"json", "jsonpb"}),
        ("observe agent-events --type ipcache-u", {"ipcache-upserted"}),
        ("graph -o mer", {"mermaid"}),
        ("config re", {"reset"}),
    ],
)
def test_words_are_completed(words: str, expected: set[str]):
    done = subprocess.run(
        [sys.executable, "-c", "from cplane.hubble.cli.main import main; main()"],
        env={
            "PYTHONPATH": str(ROOT),
            "_HUBBLE_COMPLETE": "bash_complete",
            "COMP_WORDS": f"hubble {words}",
            "COMP_CWORD": str(len(words.split())),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == expected


def test_help_explains_commands_in_both_ways():
    asked = CliRunner().invoke(cli, ["observe", "--help"], prog_name="hubble").output
    assert CliRunner().invoke(cli, ["help", "observe"], prog_name="hubble").output == asked
    assert "unix:///run/cplane/hubble.sock" in "".join(asked.split())
    root = CliRunner().invoke(cli, ["help"], prog_name="hubble").output
    observed = CliRunner().invoke(cli, ["help", "observe", "agent-events"], prog_name="hubble").output
    assert "Show what agents did" in observed and "\n  hubble observe --since 5m" not in observed
    assert "\n    hubble observe --since 5m" in asked
    for command in ("completion", "config", "graph", "list", "observe", "status", "version", "watch"):
        assert f"  {command} " in root


def test_the_command_loads_no_arrays_and_no_database():
    script = (
        "import sys, cplane.hubble.cli.observing;"
        "heavy = ('sqlalchemy', 'numpy', 'pyroute2', 'betterproto2', 'yaml', 'rich', 'cel');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_needs_neither_messages_nor_a_loop():
    script = (
        "import sys; from cplane.hubble.cli.main import cli; cli(['--help'], standalone_mode=False);"
        "print([m for m in ('google.protobuf', 'anyio', 'asyncio', 'grpclib', 'ssl', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")
