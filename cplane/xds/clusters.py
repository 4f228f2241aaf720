"""Where connections go on to: the address that the pod meant, as it is or over TLS; and the certificates for that."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import base_pb2, extension_pb2, protocol_pb2
from envoy.extensions.http.header_formatters.preserve_case.v3 import preserve_case_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from cplane.domain.policy.http import Secret
from cplane.domain.policy.redirect import Tls
from cplane.xds.messages import CLUSTER, SECRET, Resource, by_ads, flag, number, packed, resource, seconds

Secrets = Mapping[Secret, Mapping[str, bytes]]
"""What is in secrets, by the name of the item; one that is not there is missing or cannot be read."""

ORIGINAL: Final = "original-dst"
MAX_HEADERS: Final = 200

_UNLIMITED: Final = (1 << 32) - 1
_IDLE_S: Final = 60.0  # of a connection to a server that nobody uses
_CONNECT_S: Final = 10.0
_CA, _CERTIFICATE, _KEY = "ca.crt", "tls.crt", "tls.key"


def cluster_name(originating: Tls | None) -> str:
    """The cluster for connections that go on over TLS as said, or as they are."""
    return ORIGINAL if originating is None else f"{ORIGINAL}/{_tls_name(originating)}"


@lru_cache(maxsize=1024)
def cluster(originating: Tls | None, *, certificate: bool) -> Resource:
    """Connections go to their original destination from their original source; `certificate`: with one of ours."""
    made = cluster_pb2.Cluster(
        name=cluster_name(originating),
        type=cluster_pb2.Cluster.ORIGINAL_DST,
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        connect_timeout=seconds(_CONNECT_S),
        circuit_breakers=circuit_breaker_pb2.CircuitBreakers(
            thresholds=[
                circuit_breaker_pb2.CircuitBreakers.Thresholds(
                    max_connections=number(_UNLIMITED),
                    max_pending_requests=number(_UNLIMITED),
                    max_requests=number(_UNLIMITED),
                    max_retries=number(0),
                )
            ]
        ),
    )
    options = http_protocol_options_pb2.HttpProtocolOptions(
        common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
            idle_timeout=seconds(_IDLE_S), max_headers_count=number(MAX_HEADERS)
        )
    )
    if originating is None:
        use = options.use_downstream_protocol_config
        use.http_protocol_options.CopyFrom(http1())
        use.http2_protocol_options.CopyFrom(protocol_pb2.Http2ProtocolOptions())
    else:
        options.auto_config.http_protocol_options.CopyFrom(http1())
        options.auto_config.http2_protocol_options.CopyFrom(protocol_pb2.Http2ProtocolOptions())
        options.upstream_http_protocol_options.auto_sni = True
        options.upstream_http_protocol_options.auto_san_validation = True
        made.transport_socket.CopyFrom(
            _socket(tls_pb2.UpstreamTlsContext(common_tls_context=_context(originating, certificate, ca=True)))
        )
    made.typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"].CopyFrom(
        packed(options)
    )
    return resource(CLUSTER, made.name, made)


def http1() -> protocol_pb2.Http1ProtocolOptions:
    """HTTP/1 as applications use it: names of headers keep their case, and HTTP/1.0 is spoken too."""
    return protocol_pb2.Http1ProtocolOptions(
        accept_http_10=True,
        default_host_for_http_10="localhost",
        enable_trailers=True,
        header_key_format=protocol_pb2.Http1ProtocolOptions.HeaderKeyFormat(
            stateful_formatter=extension_pb2.TypedExtensionConfig(
                name="envoy.http.stateful_header_formatters.preserve_case",
                typed_config=packed(preserve_case_pb2.PreserveCaseFormatterConfig(forward_reason_phrase=True)),
            )
        ),
    )


def downstream_tls(terminating: Tls) -> base_pb2.TransportSocket:
    """TLS ends here, with the certificate of the secret; a client must have one where a trusted CA is named."""
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=_context(terminating, certificate=True, ca=bool(terminating.trusted_ca))
    )
    context.common_tls_context.alpn_protocols.extend(["h2", "http/1.1"])
    context.require_client_certificate.CopyFrom(flag(bool(terminating.trusted_ca)))
    return _socket(context)


def secrets_of(tls: Tls, secrets: Secrets, *, ending: bool) -> tuple[tuple[Resource, ...], str]:
    """What Envoy needs of the secret, and what is missing from it. `ending`: TLS ends here, else it begins here."""
    items = secrets.get(tls.secret)
    where = f"{tls.secret.namespace}/{tls.secret.name}"
    if items is None:
        return (), f"secret {where} is not there"
    ca, certificate, key = _items(tls)
    wanted = (certificate, key, *([ca] if tls.trusted_ca else [])) if ending else (ca,)
    missing = [name for name in wanted if not items.get(name)]
    if missing:
        return (), f"secret {where} has no {', '.join(missing)}"
    made = []
    if items.get(certificate) and items.get(key):
        pair = _certificate_with_key(items[certificate], items[key])
        name = _secret_name(tls, "certificate")
        made.append(resource(SECRET, name, secret_pb2.Secret(name=name, tls_certificate=pair)))
    if ca in wanted:
        name = _secret_name(tls, "ca")
        trusted = common_pb2.CertificateValidationContext(trusted_ca=base_pb2.DataSource(inline_bytes=items[ca]))
        made.append(resource(SECRET, name, secret_pb2.Secret(name=name, validation_context=trusted)))
    return tuple(made), ""


def _certificate_with_key(certificate: bytes, key: bytes) -> common_pb2.TlsCertificate:
    """A certificate with its key."""
    return common_pb2.TlsCertificate(
        certificate_chain=base_pb2.DataSource(inline_bytes=certificate),
        private_key=base_pb2.DataSource(inline_bytes=key),
    )


def _context(tls: Tls, certificate: bool, *, ca: bool) -> tls_pb2.CommonTlsContext:  # noqa: FBT001  # what it says
    made = tls_pb2.CommonTlsContext()
    if certificate:
        made.tls_certificate_sds_secret_configs.append(
            secret_pb2.SdsSecretConfig(name=_secret_name(tls, "certificate"), sds_config=by_ads())
        )
    if ca:
        made.validation_context_sds_secret_config.CopyFrom(
            secret_pb2.SdsSecretConfig(name=_secret_name(tls, "ca"), sds_config=by_ads())
        )
    return made


def _socket(context: tls_pb2.UpstreamTlsContext | tls_pb2.DownstreamTlsContext) -> base_pb2.TransportSocket:
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def _items(tls: Tls) -> tuple[str, str, str]:
    """Names of the items: trusted CA, certificate, private key."""
    return tls.trusted_ca or _CA, tls.certificate or _CERTIFICATE, tls.private_key or _KEY


def _secret_name(tls: Tls, kind: str) -> str:
    return f"{kind}/{_tls_name(tls)}"


def _tls_name(tls: Tls) -> str:
    return "/".join([tls.secret.namespace, tls.secret.name, *_items(tls)])
