"""A server's interface as proto files, which say what our own proto files say."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from click.testing import CliRunner, Result
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from cplane.hubble.cli.main import cli
from cplane.hubble.cli.prototext import proto_text
from cplane.pb.observer import observer_pb2
from tests.support.flows import records, store_of
from tests.support.observing import observed

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    async with observed(store_of(records({})), tmp_path / "hubble.sock"):
        yield tmp_path / "hubble.sock"


async def reflect(path: Path) -> Result:
    command = ["reflect", "--server", f"unix://{path}"]
    return await anyio.to_thread.run_sync(lambda: CliRunner().invoke(cli, command, prog_name="hubble"))


@pytest.mark.slow
async def test_the_interface_compiles_to_what_the_server_has(path: Path, tmp_path: Path):
    done = await reflect(path)
    assert (done.exit_code, done.stderr) == (0, "")
    names = []
    for text in done.stdout.split("// ")[1:]:
        name, _, content = text.partition("\n")
        if not name.startswith("google/"):
            names.append(name)
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
    assert "observer/observer.proto" in names
    assert "flow/flow.proto" in names
    compiled = tmp_path / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{tmp_path}", f"--descriptor_set_out={compiled}", *names]
    await anyio.run_process(command)
    known = FileDescriptorProto()
    observer_pb2.DESCRIPTOR.CopyToProto(known)
    files = {file.name: file for file in FileDescriptorSet.FromString(compiled.read_bytes()).file}
    again = files["observer/observer.proto"]
    assert [message.name for message in again.message_type] == [message.name for message in known.message_type]
    for message, expected in zip(again.message_type, known.message_type, strict=True):
        assert [(f.name, f.number, f.type, f.type_name, f.label) for f in message.field] == [
            (f.name, f.number, f.type, f.type_name, f.label) for f in expected.field
        ]
    assert again.service == known.service


def test_what_proto_files_can_say_is_said():
    file = FileDescriptorProto(name="a.proto", package="p", syntax="proto3")
    message = file.message_type.add(name="M")
    entry = message.nested_type.add(name="MapEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    entry.field.add(name="value", number=2, type="TYPE_INT32", label="LABEL_OPTIONAL")
    message.nested_type.add(name="Inner").enum_type.add(name="E").value.add(name="ZERO", number=0)
    message.field.add(name="map", number=1, type="TYPE_MESSAGE", type_name=".p.M.MapEntry", label="LABEL_REPEATED")
    message.field.add(
        name="maybe", number=2, type="TYPE_BYTES", label="LABEL_OPTIONAL", proto3_optional=True, oneof_index=1
    )
    message.field.add(name="one", number=3, type="TYPE_BOOL", label="LABEL_OPTIONAL", oneof_index=0)
    message.field.add(
        name="other", number=4, type="TYPE_MESSAGE", type_name=".p.M", label="LABEL_OPTIONAL", oneof_index=0
    )
    message.field.add(name="old", number=5, type="TYPE_DOUBLE", label="LABEL_REPEATED").options.deprecated = True
    message.oneof_decl.add(name="choice")
    message.oneof_decl.add(name="_maybe")
    message.reserved_range.add(start=7, end=8)
    message.reserved_range.add(start=9, end=12)
    assert proto_text(file) == (
        "// a.proto\n\n"
        'syntax = "proto3";\n\n'
        "package p;\n\n"
        "message M {\n"
        "  message Inner {\n"
        "    enum E {\n"
        "      ZERO = 0;\n"
        "    }\n"
        "  }\n"
        "  reserved 7;\n"
        "  reserved 9 to 11;\n"
        "  map<string, int32> map = 1;\n"
        "  optional bytes maybe = 2;\n"
        "  oneof choice {\n"
        "    bool one = 3;\n"
        "    p.M other = 4;\n"
        "  }\n"
        "  repeated double old = 5 [deprecated = true];\n"
        "}\n"
    )


def test_a_name_cannot_give_a_terminal_orders():
    assert "\x1b" not in proto_text(FileDescriptorProto(name="\x1b[31m", package="\x1b"))
