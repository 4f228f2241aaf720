"""The plugin as a process: what it prints, what it imports, what it does when the agent is away."""

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from cplane.api.cni import queue, wire
from tests.support.cni_client import PLUGIN, CniClient

NETNS = "/run/netns/cpt-none"


@pytest.fixture
def client(tmp_path):
    return CniClient(str(tmp_path / "cni.sock"), version="1.1.0")


@contextmanager
def answering(path, answer: bytes):
    """An agent that gives one connection this answer; yields the list that its request is put in."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                requests.extend([lines.readline(), lines.readline()])
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join()


def queued(client):
    return [request for _, request in queue.waiting(queue.folder_of(client.socket))]


def test_without_a_command_it_says_what_it_is():
    done = subprocess.run(PLUGIN, env={}, cwd=".", capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "cplane-cni" in done.stderr
    assert "1.1.0" in done.stderr


@pytest.mark.parametrize("version", [*wire.VERSIONS, "0.1.0", "9.9.9"])
def test_version_answers_in_the_version_that_asks(client, version):
    reply = client.run("VERSION", {"cniVersion": version})
    assert reply.ok
    assert reply.document == {"cniVersion": version, "supportedVersions": list(wire.VERSIONS)}


def test_version_needs_no_input(client):
    assert client.run("VERSION", None, raw=b"").document["supportedVersions"] == list(wire.VERSIONS)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"nope"])
def test_what_is_not_json_is_a_decode_failure(client, raw):
    reply = client.run("ADD", None, container="c", netns=NETNS, interface="eth0", raw=raw)
    assert (reply.status, reply.code) == (1, wire.DECODE_FAILURE)
    assert reply.document["cniVersion"] == "1.1.0"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "> /dev/full"])
def test_whatever_stream_is_closed_it_says_so_or_does_without(closed):
    """Of what a runtime forgets to open, only an answer that nobody got is a failure."""
    asked = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *PLUGIN],
        env={"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    unheard = closed in {">&-", "> /dev/full"}
    assert asked.returncode == unheard
    assert ("standard output cannot be written" in asked.stderr) == unheard
    assert "Traceback" not in asked.stderr
    assert unheard or json.loads(asked.stdout)["cniVersion"] == "1.1.0"


def test_a_variable_that_is_no_text_is_named(client):
    reply = client.run("ADD", client.config(), container="c", netns="/run/\udcff", interface="eth0")
    assert reply.code == wire.INVALID_ENVIRONMENT
    assert "CNI_NETNS" in reply.document["msg"]


def test_a_configuration_without_end_is_refused(client):
    raw = json.dumps(client.config(args={"x": "y" * (1 << 20)})).encode()
    reply = client.run("ADD", None, container="c", netns=NETNS, interface="eth0", raw=raw)
    assert reply.code == wire.INVALID_CONFIG


@pytest.mark.parametrize("version", wire.VERSIONS)
def test_errors_carry_the_version_of_the_configuration(client, version):
    client.version = version
    reply = client.run("ADD", client.config(bogus=1), container="c", netns=NETNS, interface="eth0")
    assert reply.document["cniVersion"] == version
    assert reply.code == wire.UNSUPPORTED_FIELD
    assert {"cniVersion", "code", "msg"} <= reply.document.keys() <= {"cniVersion", "code", "msg", "details"}


def test_without_an_agent_adding_can_be_tried_again(client):
    reply = client.add("c", NETNS)
    assert (reply.status, reply.code) == (1, wire.TRY_AGAIN_LATER)
    assert client.socket in reply.document["msg"]
    assert queued(client) == []


def test_without_an_agent_checking_and_collecting_can_be_tried_again(client):
    assert client.check("c", NETNS, prevResult={}).code == wire.TRY_AGAIN_LATER
    assert client.gc().code == wire.TRY_AGAIN_LATER


def test_without_an_agent_the_status_is_not_available(client):
    assert client.status().code == wire.NOT_AVAILABLE


def test_without_an_agent_a_deletion_is_written_down_and_succeeds(client):
    reply = client.delete("c")
    assert (reply.status, reply.document) == (0, None)
    assert client.delete("d", NETNS).ok
    assert [request["env"]["CNI_CONTAINERID"] for request in queued(client)] == ["c", "d"]


def test_when_no_more_deletions_fit_the_runtime_is_told(client, tmp_path):
    folder = tmp_path / "delete-queue"
    folder.mkdir()
    for number in range(queue.ENTRIES_MAX):
        (folder / f"{number:016d}.json").write_text("{}")
    reply = client.delete("c")
    assert reply.code == wire.TRY_AGAIN_LATER
    assert "256" in reply.document["msg"]


def test_the_environment_names_the_socket_before_the_configuration_does(client, tmp_path):
    other = CniClient(client.socket, by_environment=True)
    assert other.delete("c", socket="/nowhere/cni.sock").ok
    assert len(queued(client)) == 1


def test_the_agent_gets_the_request_and_its_result_is_printed(client):
    with answering(client.socket, b'0\n{"cniVersion": "1.1.0"}\n') as requests:
        reply = client.add("c", NETNS, args="IgnoreUnknown=1", mtu=1400)
    assert reply.document == {"cniVersion": "1.1.0"}
    assert json.loads(requests[0]) == {
        "verb": "ADD",
        "env": {
            "CNI_CONTAINERID": "c",
            "CNI_NETNS": NETNS,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": "IgnoreUnknown=1",
        },
    }
    assert json.loads(requests[1])["mtu"] == 1400


def test_odd_characters_and_line_breaks_arrive_as_they_are(client):
    args = 'X=a"b\\c\td€'
    pretty = json.dumps(client.config(), indent=4).replace("\n", "\r\n").encode()
    with answering(client.socket, b"0\n\n") as requests:
        assert client.run("DEL", None, container="c", interface="eth0", args=args, raw=pretty).document is None
    assert json.loads(requests[0])["env"]["CNI_ARGS"] == args
    assert json.loads(requests[1]) == client.config()


def test_an_error_document_of_the_agent_is_printed_and_the_exit_status_is_one(client):
    with answering(client.socket, b'1\n{"cniVersion": "1.1.0", "code": 11, "msg": "no"}\n'):
        reply = client.add("c", NETNS)
    assert reply.status == 1
    assert reply.document == {"cniVersion": "1.1.0", "code": 11, "msg": "no"}


@pytest.mark.parametrize("answer", [b"", b"0\n", b"0\n{", b"hello\nworld\n"])
def test_an_agent_that_breaks_off_or_is_none_counts_as_away(client, answer):
    with answering(client.socket, answer):
        assert client.add("c", NETNS).code == wire.TRY_AGAIN_LATER


def test_a_deletion_whose_answer_is_lost_is_written_down(client):
    with answering(client.socket, b""):
        assert client.delete("c").ok
    assert len(queued(client)) == 1


def by_hand(*arguments):
    return subprocess.run([*PLUGIN, *arguments], env={}, capture_output=True, text=True, check=False)


def test_it_is_installed_as_a_file_that_needs_no_packages(client, tmp_path):
    folder = tmp_path / "opt" / "bin"
    for _ in range(2):
        done = by_hand("install", str(folder))
        assert (done.returncode, done.stdout) == (0, f"{folder}/cplane-cni\n")
    assert [path.name for path in folder.iterdir()] == ["cplane-cni"]
    client.plugin = (str(folder / "cplane-cni"),)
    assert client.run("VERSION", {"cniVersion": "1.1.0"}).document["cniVersion"] == "1.1.0"
    assert client.add("c", NETNS).code == wire.TRY_AGAIN_LATER
    assert client.delete("c").ok
    assert len(queued(client)) == 1


def test_where_it_cannot_be_installed_it_says_why(tmp_path):
    (tmp_path / "file").touch()
    done = by_hand("install", str(tmp_path / "file"))
    assert done.returncode == 1
    assert f"cannot write {tmp_path}/file/cplane-cni" in done.stderr


@pytest.mark.parametrize("arguments", [["instal"], ["install", "a", "b"]])
def test_other_arguments_are_wrong_usage(arguments):
    done = by_hand(*arguments)
    assert done.returncode == 2
    assert "usage: cplane-cni install" in done.stderr


def test_it_imports_the_standard_library_and_two_modules_of_ours():
    code = "import sys; before = set(sys.modules); import cplane.cni.main; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.split(".")[0] in {"cplane", "datapath"}}
    assert ours == {"cplane", "cplane.cni", "cplane.cni.main", "cplane.api", "cplane.api.cni", "cplane.api.cni.wire"}
    assert {name.split(".")[0] for name in loaded - ours} <= set(sys.stdlib_module_names)
    assert not loaded & {"socket", "argparse", "typing", "logging", "asyncio", "dataclasses", "re", "json"}
