"""What can be told about what flows keep secret, as Cilium's `hubble-redact-*`."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cplane.domain.redaction import Redaction


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionConfig:
    """What of requests is left out of flows, the same wherever they go. Nothing is without `redact_enabled`."""

    redact_enabled: bool = field(
        default=False, metadata={"help": "leave out of flows what the requests in them keep secret: values of headers"}
    )
    redact_http_headers_allow: tuple[str, ...] = field(
        default=(), metadata={"help": "headers whose values are told all the same, with hubble.redact_enabled"}
    )
    redact_http_headers_deny: tuple[str, ...] = field(
        default=(), metadata={"help": "headers whose values alone are left out, with hubble.redact_enabled"}
    )
    redact_http_urlquery: bool = field(
        default=False, metadata={"help": "leave out the queries of URLs, with hubble.redact_enabled"}
    )
    redact_http_userinfo: bool = field(
        default=True, metadata={"help": "leave out passwords in URLs, with hubble.redact_enabled"}
    )
    redact_kafka_apikey: bool = field(
        default=False, metadata={"help": "leave out the API keys of Kafka, with hubble.redact_enabled"}
    )

    @property
    def redaction(self) -> Redaction:
        """What of requests is not told."""
        if not self.redact_enabled:
            return Redaction()
        return Redaction(
            headers=True,
            allow=frozenset(name.lower() for name in self.redact_http_headers_allow),
            deny=frozenset(name.lower() for name in self.redact_http_headers_deny),
            query=self.redact_http_urlquery,
            userinfo=self.redact_http_userinfo,
            kafka_api_key=self.redact_kafka_apikey,
        )

    def redaction_faults(self) -> Iterator[tuple[str, str]]:
        """What is wrong here: keys and messages."""
        if self.redact_http_headers_allow and self.redact_http_headers_deny:
            yield (
                "redact_http_headers_deny",
                "give either these, or hubble.redact_http_headers_allow: what becomes of others is not clear with both",
            )
