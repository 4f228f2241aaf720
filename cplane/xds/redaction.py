"""What records of HTTP do not tell: as Cilium's `hubble-redact-*` say it, and secrets by default."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

REDACTED: Final = "HUBBLE_REDACTED"

CREDENTIALS: Final = frozenset(
    {"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "x-auth-token"}
)
"""Headers whose values are secret wherever they are sent."""


@dataclass(frozen=True, slots=True)
class Redaction:
    """Values of headers in `deny` are not told; where `allow` is not empty, only values of those are.

    `query`: what follows the path of a URL is not told; `user_info`: a password in front of its host is not.
    """

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = CREDENTIALS
    query: bool = False
    user_info: bool = True

    def headers(self, pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """The headers (names in lower case), in their order, without what is not told."""
        if self.allow:
            return tuple((name, value if name in self.allow else REDACTED) for name, value in pairs)
        return tuple((name, REDACTED if name in self.deny else value) for name, value in pairs)

    def url(self, url: str) -> str:
        """The URL without what is not told."""
        if self.query and "?" in url:
            url = url[: url.index("?")]
        if not self.user_info or "@" not in url:
            return url
        host = urlsplit(url).netloc
        user, at, rest = host.rpartition("@")
        name, colon, _ = user.partition(":")
        return url.replace(host, f"{name}:{REDACTED}@{rest}", 1) if at and colon else url
