"""Facts about names: what endpoints were told by DNS servers, and which identity addresses have for it."""

import msgspec


class NameResolved(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An answer to the endpoint had addresses for `name` that it did not have before. Refreshments are not recorded.

    `name` is canonical: in lower case, with a dot at its end. `ttl` in seconds, the least in the answer; `server` is
    who answered; `resolved_at_ns` in nanoseconds since the epoch, UTC.
    """

    name: str
    endpoint: int
    ips: tuple[str, ...]
    ttl: int
    server: str
    resolved_at_ns: int


class NameExpired(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """These addresses of the name do not count any more for the endpoint.

    `reason`: `ttl`, no answer had them for so long; `limit`, the name had too many; `forgotten`, somebody asked for it.
    None of them had an open connection.
    """

    name: str
    endpoint: int
    ips: tuple[str, ...]
    reason: str


class AddressesIdentified(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Policies select names that these addresses were resolved from: this is their identity now."""

    identity: int
    addresses: tuple[str, ...]


class AddressesForgotten(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """No policy selects a name of these addresses any more: they had this identity."""

    identity: int
    addresses: tuple[str, ...]
