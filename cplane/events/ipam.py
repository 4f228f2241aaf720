"""Facts about pod addresses."""

import msgspec


class PoolAdded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Pod addresses may be taken from `cidr`, except the `reserved` ones."""

    pool: str
    cidr: str
    reserved: tuple[str, ...] = ()


class AddressAllocated(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`address` of `pool` belongs to `owner` (`endpoint/<container>/<interface>`)."""

    pool: str
    address: str
    owner: str


class AddressReleased(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`address` of `pool` is free again."""

    pool: str
    address: str
