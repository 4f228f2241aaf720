"""Listeners: one for each proxy port, where connections of pods come in with the addresses that they had.

What stands here changes only with TLS; rules of HTTP are in route configurations, so that no change of them closes a
connection. The proxy shows as little of itself as it can: no headers of its own, no other letters in theirs.
"""

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import (
    address_pb2,
    base_pb2,
    extension_pb2,
    protocol_pb2,
    socket_option_pb2,
    substitution_format_string_pb2,
)
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.original_src.v3 import original_src_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.direct_response.v3 import config_pb2 as direct_response_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.tracing.v3 import custom_tag_pb2
from google.protobuf.message import Message

from cplane.domain.policy.redirect import Tls
from cplane.domain.policy.redirection import RedirectRule
from cplane.domain.verdict import Direction
from cplane.xds.clusters import MAX_HEADERS, cluster_name, downstream_tls, http1
from cplane.xds.messages import access_log, by_ads, flag, number, packed, seconds
from cplane.xds.names import allowing, denying
from cplane.xds.routes import FORWARDED_PROTO, STASH
from datapath.maps import marks

TAG: Final = "rule"
"""Of a record of a connection: what a route's name is for a request."""

TAG_SERVER: Final = "sni"

REQUEST_HEADERS: Final = (
    ":method",
    *("accept", "accept-encoding", "authorization", "content-length", "content-type", "cookie", "grpc-timeout"),
    *("host", "origin", "referer", "te", "traceparent", "transfer-encoding", "upgrade", "user-agent", "x-api-key"),
    *("x-auth-token", "x-b3-traceid", "x-forwarded-for", "x-request-id", "x-token"),
)
RESPONSE_HEADERS: Final = (
    *("content-length", "content-type", "grpc-status", "location", "server", "set-cookie", "transfer-encoding"),
    *("www-authenticate", "x-request-id"),
)

_LOCAL: Final = ("127.0.0.1", "::1")
_LOOPBACKS: Final = (("127.0.0.0", 8), ("::1", 128))
_HEADERS_KB: Final = 60
_HEADERS_TIMEOUT_S: Final = 10.0
_IDLE_S: Final = 3600.0
_CLOSE_S: Final = 0.2  # for a client to read an answer before its connection is reset
_BUFFER_BYTES: Final = 1 << 20
_STREAMS_MAX: Final = 1024
_STREAM_WINDOW: Final = 256 << 10
_CONNECTION_WINDOW: Final = 4 << 20
_CONTROL_FRAMES_MAX: Final = 1000
_STATS: Final = "l7"
# what a client could tell Envoy's router to do
_STEERING: Final = (
    *("retry-on", "retry-grpc-on", "max-retries", "retriable-status-codes", "retriable-header-names"),
    *("upstream-rq-timeout-ms", "upstream-rq-per-try-timeout-ms", "upstream-rq-timeout-alt-response"),
    *("upstream-alt-stat-name", "hedge-on-per-try-timeout", "original-dst-host", "decorator-operation"),
    *("is-timeout-retry", "attempt-count", "expected-rq-timeout-ms", "ip-tags", "internal", "force-trace"),
)
_FilterChain: TypeAlias = listener_components_pb2.FilterChain


@dataclass(frozen=True, slots=True)
class Logged:
    """Headers that records have, by lower-case name."""

    request: tuple[str, ...] = REQUEST_HEADERS
    response: tuple[str, ...] = RESPONSE_HEADERS


def listener(
    port: int,
    direction: Direction,
    chains: Sequence[_FilterChain],
    default: _FilterChain | None,
) -> listener_pb2.Listener:
    """Connections that come to the port, over IPv4 or IPv6, meet the chain that is for their server name.

    Whoever on the node connects to the port itself is turned away: the server would be this listener, again and again.
    """
    filters = [
        _filter("original_dst", original_dst_pb2.OriginalDst()),
        _filter("original_src", original_src_pb2.OriginalSrc(mark=marks.from_proxy(direction))),
    ]
    if chains:
        filters.append(_filter("tls_inspector", tls_inspector_pb2.TlsInspector()))
    first, second = (_address(host, port) for host in _LOCAL)
    return listener_pb2.Listener(
        name=str(port),
        address=first,
        additional_addresses=[listener_pb2.AdditionalAddress(address=second)],
        stat_prefix=_STATS,
        transparent=flag(True),
        socket_options=[
            socket_option_pb2.SocketOption(
                level=socket.SOL_SOCKET, name=socket.SO_MARK, int_value=marks.of_listener(port)
            )
        ],
        listener_filters=filters,
        filter_chains=[*chains, _to_itself()],
        default_filter_chain=default,
        per_connection_buffer_limit_bytes=number(_BUFFER_BYTES),
        max_connections_to_accept_per_socket_event=number(64),
    )


def http_chain(
    name: str,
    routes: str,
    direction: Direction,
    logged: Logged,
    names: Iterable[str] = (),
    expressions: Sequence[str] = (),
    tls: Tls | None = None,
) -> _FilterChain:
    """Requests are asked of the route configuration `routes`; `tls`: they come over TLS, which ends here."""
    made = _FilterChain(name=name)
    if expressions:
        made.filters.append(_network("rbac", _server_names(expressions)))
    made.filters.append(_network("http_connection_manager", _manager(routes, direction, logged)))
    return _over_tls(made, names, tls)


def tcp_chain(
    name: str,
    port: int,
    direction: Direction,
    rules: Sequence[RedirectRule],
    *,
    names: Iterable[str] = (),
    expressions: Sequence[str] = (),
    passthrough: bool = False,
    tls: Tls | None = None,
) -> _FilterChain:
    """Connections go on, by these rules. `expressions`: only where the server name is one of those.

    `passthrough`: they are TLS, and stay as they are.
    """
    originating = next((one.redirect.originating for one in rules if one.redirect and one.redirect.originating), None)
    made = _FilterChain(name=name)
    if expressions:
        made.filters.append(_network("rbac", _server_names(expressions)))
    if originating is not None:
        made.filters.append(_network("set_filter_state", _same_server_name()))
    forward = _tcp_proxy(cluster_name(originating), direction, allowing(port, rules))
    if passthrough:
        _wait_for_data(forward)
    made.filters.append(_network("tcp_proxy", forward))
    made = _over_tls(made, names, tls)
    if passthrough and not made.filter_chain_match.server_names:
        made.filter_chain_match.transport_protocol = "tls"
    return made


def refusing_chain(port: int, direction: Direction) -> _FilterChain:
    """Connections are closed, and told of."""
    nobody = network_rbac_pb2.RBAC(stat_prefix=_STATS, rules=rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW))
    nowhere = _tcp_proxy(cluster_name(None), direction, denying(port))
    _wait_for_data(nowhere)
    return _FilterChain(name="refused", filters=[_network("rbac", nobody), _network("tcp_proxy", nowhere)])


@lru_cache(maxsize=1)
def _to_itself() -> _FilterChain:
    ours = [address_pb2.CidrRange(address_prefix=host, prefix_len=number(bits)) for host, bits in _LOOPBACKS]
    return _FilterChain(
        name="itself",
        filter_chain_match=listener_components_pb2.FilterChainMatch(prefix_ranges=ours),
        filters=[_network("direct_response", direct_response_pb2.Config())],
    )


@lru_cache(maxsize=4096)
def _manager(routes: str, direction: Direction, logged: Logged) -> hcm_pb2.HttpConnectionManager:
    made = hcm_pb2.HttpConnectionManager()
    made.CopyFrom(_manager_without_routes(direction, logged))
    made.rds.CopyFrom(hcm_pb2.Rds(route_config_name=routes, config_source=by_ads()))
    return made


@lru_cache(maxsize=8)
def _manager_without_routes(direction: Direction, logged: Logged) -> hcm_pb2.HttpConnectionManager:
    made = hcm_pb2.HttpConnectionManager(
        codec_type=hcm_pb2.HttpConnectionManager.AUTO,
        stat_prefix=_STATS,
        server_header_transformation=hcm_pb2.HttpConnectionManager.PASS_THROUGH,
        http_filters=[
            hcm_pb2.HttpFilter(
                name="envoy.filters.http.router",
                typed_config=packed(router_pb2.Router(suppress_envoy_headers=True, dynamic_stats=flag(False))),
            )
        ],
        early_header_mutation_extensions=[_stash()],
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
            idle_timeout=seconds(_IDLE_S), max_headers_count=number(MAX_HEADERS)
        ),
        http_protocol_options=http1(),
        http2_protocol_options=_http2(),
        max_request_headers_kb=number(_HEADERS_KB),
        request_headers_timeout=seconds(_HEADERS_TIMEOUT_S),
        stream_idle_timeout=seconds(_IDLE_S),
        delayed_close_timeout=seconds(_CLOSE_S),
        drain_timeout=seconds(1),
        generate_request_id=flag(False),
        preserve_external_request_id=True,
        use_remote_address=flag(False),
        skip_xff_append=True,
        proxy_100_continue=True,
        normalize_path=flag(True),
        merge_slashes=True,
        path_with_escaped_slashes_action=hcm_pb2.HttpConnectionManager.UNESCAPE_AND_REDIRECT,
        upgrade_configs=[hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        access_log_options=hcm_pb2.HttpConnectionManager.HcmAccessLogOptions(flush_access_log_on_new_request=True),
    )
    made.access_log.append(_http_log(direction, logged))
    return made


def _http2() -> protocol_pb2.Http2ProtocolOptions:
    """Limits against floods: of frames that nobody reads, of empty ones, of priorities, of window updates."""
    return protocol_pb2.Http2ProtocolOptions(
        max_concurrent_streams=number(_STREAMS_MAX),
        initial_stream_window_size=number(_STREAM_WINDOW),
        initial_connection_window_size=number(_CONNECTION_WINDOW),
        max_outbound_frames=number(10 * _CONTROL_FRAMES_MAX),
        max_outbound_control_frames=number(_CONTROL_FRAMES_MAX),
        max_consecutive_inbound_frames_with_empty_payload=number(1),
        max_inbound_priority_frames_per_stream=number(100),
        max_inbound_window_update_frames_per_data_frame_sent=number(10),
        override_stream_error_on_invalid_http_message=flag(True),
    )


def _stash() -> extension_pb2.TypedExtensionConfig:
    """Before anything is decided: what would steer the router is gone, what the client said of its protocol kept."""
    remove = [
        mutation_rules_pb2.HeaderMutation(remove=name) for name in (STASH, *(f"x-envoy-{one}" for one in _STEERING))
    ]
    keep = base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=STASH, value=f"%REQ({FORWARDED_PROTO})%"),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    mutations = [*remove, mutation_rules_pb2.HeaderMutation(append=keep)]
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=packed(header_mutation_pb2.HeaderMutation(mutations=mutations)),
    )


def _http_log(direction: Direction, logged: Logged) -> accesslog_pb2.AccessLog:
    config = als_pb2.HttpGrpcAccessLogConfig(
        additional_request_headers_to_log=logged.request, additional_response_headers_to_log=logged.response
    )
    config.common_config.log_name = direction.name.lower()
    return access_log(config)


def _tcp_proxy(cluster: str, direction: Direction, told: str) -> tcp_proxy_pb2.TcpProxy:
    config = als_pb2.TcpGrpcAccessLogConfig()
    config.common_config.log_name = direction.name.lower()
    config.common_config.custom_tags.extend(
        [
            custom_tag_pb2.CustomTag(tag=TAG, literal=custom_tag_pb2.CustomTag.Literal(value=told)),
            custom_tag_pb2.CustomTag(tag=TAG_SERVER, value="%REQUESTED_SERVER_NAME%"),
        ]
    )
    return tcp_proxy_pb2.TcpProxy(
        stat_prefix=_STATS, cluster=cluster, idle_timeout=seconds(0), access_log=[access_log(config)]
    )


def _wait_for_data(forward: tcp_proxy_pb2.TcpProxy) -> None:
    """The server is not spoken to before a connection has shown what it asks for."""
    forward.upstream_connect_mode = tcp_proxy_pb2.ON_DOWNSTREAM_DATA
    forward.max_early_data_bytes.CopyFrom(number(_BUFFER_BYTES))


def _server_names(expressions: Sequence[str]) -> network_rbac_pb2.RBAC:
    """Connections for other server names are closed."""
    matchers = [
        rbac_pb2.Permission(
            requested_server_name=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=expression))
        )
        for expression in expressions
    ]
    policy = rbac_pb2.Policy(permissions=matchers, principals=[rbac_pb2.Principal(any=True)])
    return network_rbac_pb2.RBAC(
        stat_prefix=_STATS, rules=rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW, policies={"names": policy})
    )


def _same_server_name() -> set_filter_state_pb2.Config:
    """The server is asked, and must be, for the name that the client asked for."""
    text = substitution_format_string_pb2.SubstitutionFormatString(
        text_format_source=base_pb2.DataSource(inline_string="%REQUESTED_SERVER_NAME%"), omit_empty_values=True
    )
    keys = ("envoy.network.upstream_server_name", "envoy.network.upstream_subject_alt_names")
    return set_filter_state_pb2.Config(
        on_new_connection=[
            value_pb2.FilterStateValue(object_key=key, format_string=text, skip_if_empty=True) for key in keys
        ]
    )


def _over_tls(chain: _FilterChain, names: Iterable[str], tls: Tls | None) -> _FilterChain:
    chain.filter_chain_match.server_names.extend(names)
    if tls is not None:
        chain.filter_chain_match.transport_protocol = "tls"
        chain.transport_socket.CopyFrom(downstream_tls(tls))
    return chain


def _address(host: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def _filter(name: str, config: Message) -> listener_components_pb2.ListenerFilter:
    return listener_components_pb2.ListenerFilter(name=f"envoy.filters.listener.{name}", typed_config=packed(config))


def _network(name: str, config: Message) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(name=f"envoy.filters.network.{name}", typed_config=packed(config))
