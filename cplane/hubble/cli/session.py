"""A command's call to a server, and what its failures are called.

An interrupt ends a command as if it were done, as upstream's does: who follows flows ends by interrupting.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cplane import __version__
from cplane.hubble.cli.failure import Failed, complain
from cplane.hubble.cli.output import ReaderGone
from cplane.hubble.cli.settings import Settings

if TYPE_CHECKING:
    import ssl

    from grpclib.exceptions import GRPCError

    from cplane.hubble.cli.portforward import Cluster
    from cplane.transport.client import ClientChannel

T = TypeVar("T")
Ask = Callable[["ClientChannel"], Awaitable[T]]

_TLS: Final = "tls://"
_VERSIONS: Final = {"hubble-relay-version": "Hubble Relay", "hubble-server-version": "Hubble Server"}
_GO_NAMES: Final = {"OK": "OK", "CANCELLED": "Canceled"}


@dataclass(frozen=True)
class Session:
    """Whom to ask, and how long to wait. Times are seconds; `silent`: no warnings."""

    server: str
    dial_s: float
    answer_s: float
    tls: "ssl.SSLContext | None" = None
    server_name: str = ""
    silent: bool = False
    debugs: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)  # of every call
    cluster: "Cluster | None" = None  # whose relay is asked, in place of the server

    def call(self, ask: "Ask[T]") -> T | None:
        """What `ask` returns over a channel to the server; None after an interrupt. Raises Failed, ReaderGone."""
        from cplane.terminal.interrupt import abandon_output, run_until_interrupted

        try:
            return run_until_interrupted(partial(self._call, ask), until_unread=True)
        except BrokenPipeError:
            abandon_output()
            raise ReaderGone from None
        except KeyboardInterrupt:
            return None

    async def _call(self, ask: "Ask[T]") -> T:
        from grpclib.exceptions import GRPCError, StreamTerminatedError

        from cplane.transport.client import Unreachable

        async with self._channel() as channel:
            try:
                return await ask(channel)
            except Unreachable as error:  # it was there, and has gone since
                raise self._unreachable(error.reason) from None
            except GRPCError as error:
                raise rpc_failed(error) from None
            except (StreamTerminatedError, ConnectionError) as error:
                raise Failed(f"rpc error: code = Unavailable desc = the connection broke: {error}") from None

    @asynccontextmanager
    async def _channel(self) -> "AsyncIterator[ClientChannel]":
        """A channel that is connected in time."""
        from contextlib import AsyncExitStack

        import anyio

        from cplane.errors import CplaneError
        from cplane.transport.client import Unreachable, connect

        async with AsyncExitStack() as stack:
            server = self.server
            if self.cluster is not None:
                from cplane.hubble.cli.portforward import forwarded

                server = await stack.enter_async_context(forwarded(self.cluster, self.dial_s))
            connecting = connect(server, tls=self.tls, server_name=self.server_name)
            try:
                with anyio.fail_after(self.dial_s):
                    channel = await stack.enter_async_context(connecting)
            except TimeoutError:
                raise self._unreachable(f"no answer within {self.dial_s:g} s") from None
            except Unreachable as error:
                raise self._unreachable(error.reason) from None
            except CplaneError as error:
                raise Failed(str(error)) from None
            self.debug(f"connected to {server}")
            yield channel

    def _unreachable(self, reason: str) -> Failed:
        return Failed(f"failed to connect to '{self.server}': {reason}")

    async def unary(
        self,
        channel: "ClientChannel",
        method: str,
        request: object,
        answer: "type[T]",
        *,
        failing: str = "",
    ) -> T:
        """The answer to one message within the time for it. `failing` stands before errors. Raises Failed."""
        import anyio
        from grpclib.client import UnaryUnaryMethod
        from grpclib.exceptions import GRPCError

        call: UnaryUnaryMethod[Any, T] = UnaryUnaryMethod(channel, method, type(request), answer)
        try:
            with anyio.fail_after(self.answer_s):
                async with call.open(metadata=self.metadata) as stream:
                    await stream.send_message(request, end=True)
                    message = await stream.recv_message()
                    self.compare_versions(stream.initial_metadata or {})
        except TimeoutError:
            told = f"rpc error: code = DeadlineExceeded desc = no answer within {self.answer_s:g} s"
            raise Failed(f"{failing}{told}") from None
        except GRPCError as error:
            raise rpc_failed(error, failing) from None
        assert message is not None, "grpclib raises where a unary call is not answered"
        return message

    def compare_versions(self, metadata: Mapping[str, object]) -> None:
        """Warn when the server is newer than we are, which may know more than we show."""
        for key, name in _VERSIONS.items():
            theirs = _minor(str(metadata.get(key, "")))
            if theirs is not None and theirs > (_minor(__version__) or theirs):
                self.warn(
                    f"Hubble CLI version is lower than {name}, API compatibility is not guaranteed, updating to a "
                    f"matching or higher version is recommended (ours {__version__}, theirs {metadata[key]})"
                )

    def warn(self, message: str) -> None:
        """A line on standard error, unless they are not wanted."""
        if not self.silent:
            complain(message)

    def debug(self, message: str) -> None:
        """A line on standard error for who wants to know."""
        if self.debugs:
            complain(f"debug: {message}")


def open_session(settings: Settings, *, silent: bool = False) -> Session:
    """The session that the settings mean. Raises Failed."""
    server = settings.server
    certificate, key = (settings.text(f"tls-client-{name}-file") for name in ("cert", "key"))
    if bool(certificate) != bool(key):
        raise Failed("certificate and private key are both required, but only one was provided")
    tls = settings.on("tls") or server.startswith(_TLS)
    if certificate and not tls:
        raise Failed("transport layer security required")
    username = settings.text("basic-auth-username")
    if username and not tls:
        raise Failed("basic authentication needs TLS: anybody between could read the password (use --tls)")
    cluster = _cluster(settings) if settings.on("port-forward") else None
    session = Session(
        metadata=_basic(username, settings.text("basic-auth-password")) if username else {},
        cluster=cluster,
        server=f"localhost:{cluster.port}" if cluster else server.removeprefix(_TLS),
        dial_s=settings.seconds("timeout"),
        answer_s=settings.seconds("request-timeout"),
        tls=_context(settings, certificate, key) if tls else None,
        server_name=settings.text("tls-server-name"),
        silent=silent,
        debugs=settings.on("debug"),
    )
    if settings.file:
        session.debug(f"using configuration file {settings.path}")
    return session


def _basic(username: str, password: str) -> dict[str, str]:
    """RFC 7617."""
    from base64 import b64encode

    return {"authorization": f"Basic {b64encode(f'{username}:{password}'.encode()).decode()}"}


def _cluster(settings: Settings) -> "Cluster":
    from cplane.hubble.cli.portforward import Cluster

    return Cluster(
        settings.port("port-forward-port"),
        settings.text("kube-context"),
        settings.text("kube-namespace"),
        settings.text("kubeconfig"),
    )


def _context(settings: Settings, certificate: str, key: str) -> "ssl.SSLContext":
    from cplane.errors import CplaneError
    from cplane.transport.tls import client_context

    try:
        return client_context(
            authorities=settings.texts("tls-ca-cert-files"),
            certificate=certificate,
            key=key,
            insecure=settings.on("tls-allow-insecure"),
        )
    except CplaneError as error:
        raise Failed(str(error)) from None


def rpc_failed(error: "GRPCError", failing: str = "") -> Failed:
    """A server's refusal in the words of upstream's command; a status that says nothing is left out."""
    name = error.status.name
    message = error.message or ""
    if name == "UNKNOWN" and message:
        return Failed(f"{failing}{message}")
    code = _GO_NAMES.get(name) or "".join(word.capitalize() for word in name.split("_"))
    return Failed(f"{failing}rpc error: code = {code} desc = {message}")


def _minor(version: str) -> tuple[int, int] | None:
    """Major and minor number; None for what is no version."""
    parts = version.removeprefix("v").split(".")
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1][:1].isdecimal()):
        return None
    digits = "".join(c if c.isdecimal() else " " for c in parts[1]).split()[0]
    return int(parts[0]), int(digits)
