"""What of a request is not to be told: Cilium's `hubble-redact-*` settings, applied where a record is made.

Values that are left out are replaced, so that one sees that there was something.
"""

from dataclasses import dataclass
from typing import Final

from cplane.domain.access import Access, Dns, Http, Kafka

REDACTED: Final = "HUBBLE_REDACTED"


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is left out. Header names are in lower case.

    `headers`: values of headers are left out, all where neither list names any; otherwise those of `deny`, and where
    `allow` names some, all but these. `query` takes fragments along, `userinfo` is about passwords.
    """

    headers: bool = False
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    query: bool = False
    userinfo: bool = False
    kafka_api_key: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether everything is told."""
        return not (self.headers or self.query or self.userinfo or self.kafka_api_key)


NO_REDACTION: Final = Redaction()


def redact(access: Access, redaction: Redaction) -> Access:
    """The record as it may be told. It is the same one where nothing is to be left out."""
    if redaction.is_nothing:
        return access
    payload = access.payload
    match payload:
        case Http():
            headers = payload.headers
            if redaction.headers:
                headers = tuple((name, _value(name, value, redaction)) for name, value in headers)
            return access._replace(payload=payload._replace(url=_url(payload.url, redaction), headers=headers))
        case Kafka():
            if redaction.kafka_api_key:
                return access._replace(payload=payload._replace(api_key=REDACTED))
        case Dns():
            pass
    return access


def _value(name: str, value: str, redaction: Redaction) -> str:
    key = name.lower()
    if key in redaction.allow:
        return value
    if key in redaction.deny or redaction.allow or not redaction.deny:
        return REDACTED
    return value


def _url(url: str, redaction: Redaction) -> str:
    """Cut by hand, as it may be anything: what no parser accepts must not be told for that reason."""
    if redaction.query:
        url = url.partition("#")[0].partition("?")[0]
    return without_password(url) if redaction.userinfo else url


def without_password(url: str) -> str:
    """The URL without the password that may stand before its host."""
    scheme, slashes, rest = url.partition("//")
    end = min((rest.find(one) for one in "/?#" if one in rest), default=len(rest))
    user, at, host = rest[:end].rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{scheme}//{name}:{REDACTED}@{host}{rest[end:]}" if slashes and at and colon else url
