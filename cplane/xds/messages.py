"""Resources as they travel, and the few kinds of message that all of them are made of."""

import hashlib
from typing import Any, Final, NamedTuple

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import config_source_pb2, grpc_service_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2
from google.protobuf.message import Message

PREFIX: Final = "type.googleapis.com/"
CLUSTER: Final = PREFIX + "envoy.config.cluster.v3.Cluster"
LISTENER: Final = PREFIX + "envoy.config.listener.v3.Listener"
ROUTES: Final = PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET: Final = PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
TYPES: Final = (SECRET, CLUSTER, ROUTES, LISTENER)
"""In the order in which changes are sent: what is named comes before who names it."""

AGENT_CLUSTER: Final = "agent"
"""How Envoy reaches us; the bootstrap has it."""

_DIGEST_BYTES: Final = 8
_LOG_BUFFER_BYTES: Final = 8 << 20  # of a worker; holds what comes while the agent stalls for a second
_LOG_FLUSH_MS: Final = 100


class Key(NamedTuple):
    """What a resource is called."""

    type_url: str
    name: str


class Resource(NamedTuple):
    """A resource of Envoy; `version` is a digest of `body`, the encoded message: the same says the same."""

    key: Key
    version: str
    body: bytes


def resource(type_url: str, name: str, message: Message) -> Resource:
    """The message under its name."""
    body = message.SerializeToString(deterministic=True)
    return Resource(Key(type_url, name), hashlib.blake2b(body, digest_size=_DIGEST_BYTES).hexdigest(), body)


def packed(message: Message) -> any_pb2.Any:
    """The message as an Any, the same bytes for the same message."""
    body = message.SerializeToString(deterministic=True)
    return any_pb2.Any(type_url=PREFIX + message.DESCRIPTOR.full_name, value=body)


def seconds(value: float) -> duration_pb2.Duration:
    """A duration."""
    whole = int(value)
    return duration_pb2.Duration(seconds=whole, nanos=round((value - whole) * 1e9))


def number(value: int) -> wrappers_pb2.UInt32Value:
    """A number that may be left out."""
    return wrappers_pb2.UInt32Value(value=value)


def flag(value: bool) -> wrappers_pb2.BoolValue:  # noqa: FBT001  # a constructor of one value
    """A truth value that may be left out."""
    return wrappers_pb2.BoolValue(value=value)


def by_ads() -> config_source_pb2.ConfigSource:
    """A resource comes over the stream that all resources come over, and is waited for without end."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=seconds(0),
    )


def access_log(config: Any) -> accesslog_pb2.AccessLog:  # noqa: ANN401  # either of two messages with `common_config`
    """Records go to the agent. Those of a second are kept while it does not read; then they are lost and counted."""
    common = config.common_config
    common.grpc_service.CopyFrom(
        grpc_service_pb2.GrpcService(
            envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=AGENT_CLUSTER), timeout=seconds(0)
        )
    )
    common.transport_api_version = config_source_pb2.V3
    common.buffer_flush_interval.CopyFrom(duration_pb2.Duration(nanos=_LOG_FLUSH_MS * 1_000_000))
    common.buffer_size_bytes.CopyFrom(number(_LOG_BUFFER_BYTES))
    kind = "http" if isinstance(config, als_pb2.HttpGrpcAccessLogConfig) else "tcp"
    return accesslog_pb2.AccessLog(name=f"envoy.access_loggers.{kind}_grpc", typed_config=packed(config))
