"""`hubble reflect`: the interface of a server, as the server itself tells it."""

from typing import TYPE_CHECKING, Any, Final

import click

from cplane.hubble.cli.failure import Failed
from cplane.hubble.cli.options import Command, global_options, server_options, settings_of
from cplane.hubble.cli.output import write_out

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    from cplane.hubble.cli.session import Session
    from cplane.transport.client import ClientChannel

FILES_MAX: Final = 256  # a server that has more is none of Hubble's
# the older of the two: whoever has the newer has this one too
_METHOD: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@click.command(cls=Command)
@server_options
@global_options
@click.pass_context
def reflect(ctx: click.Context) -> None:
    """Show the interface of a server as proto files, by gRPC's reflection."""
    from functools import partial

    from cplane.hubble.cli.session import open_session

    session = open_session(settings_of(ctx))
    session.call(partial(_show, session))


async def _show(session: "Session", channel: "ClientChannel") -> None:
    import anyio
    from google.protobuf.message import DecodeError

    from cplane.hubble.cli.prototext import proto_text

    try:
        with anyio.fail_after(session.answer_s):
            files = await _files(session, channel)
    except TimeoutError:
        told = f"rpc error: code = DeadlineExceeded desc = no answer within {session.answer_s:g} s"
        raise Failed(told) from None
    except DecodeError as error:
        raise Failed(f"the server sent what is no proto file: {error}") from None
    write_out("\n".join(proto_text(files[name]) for name in sorted(files)))


async def _files(session: "Session", channel: "ClientChannel") -> "dict[str, FileDescriptorProto]":
    """The files of all services and whatever those import, by name. Raises Failed and DecodeError."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from grpclib.client import StreamStreamMethod
    from grpclib.reflection.v1alpha import reflection_pb2 as pb

    found: dict[str, FileDescriptorProto] = {}
    missing: list[str] = []
    call: StreamStreamMethod[Any, Any] = StreamStreamMethod(  # Any: grpclib's messages have no types
        channel, _METHOD, pb.ServerReflectionRequest, pb.ServerReflectionResponse
    )
    async with call.open(metadata=session.metadata) as stream:

        async def ask(request: pb.ServerReflectionRequest) -> Any:  # noqa: ANN401  # as above
            await stream.send_message(request)
            answer = await stream.recv_message()
            if answer is None or answer.HasField("error_response"):
                what = str(request).strip()
                raise Failed(f"the server does not tell of {what}: {answer and answer.error_response.error_message}")
            return answer

        def take(answer: Any) -> None:  # noqa: ANN401  # as above
            for data in answer.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(data)
                found[file.name] = file
                missing.extend(file.dependency)
            if len(found) > FILES_MAX:
                raise Failed(f"the server tells of more than {FILES_MAX} files")

        listed = await ask(pb.ServerReflectionRequest(list_services="*"))
        for service in listed.list_services_response.service[:FILES_MAX]:
            take(await ask(pb.ServerReflectionRequest(file_containing_symbol=service.name)))
        while missing:
            name = missing.pop()
            if name not in found:
                take(await ask(pb.ServerReflectionRequest(file_by_filename=name)))
                if name not in found:
                    raise Failed(f"the server does not tell of {name!r}")
        await stream.end()
    return found
