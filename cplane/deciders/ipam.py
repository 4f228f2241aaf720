"""Pod addresses: add a pool, take an address, give it back."""

from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Final

from immutables import Map

from cplane.deciders.decider import NOTHING, Decision
from cplane.domain import ipam
from cplane.errors import Rejected
from cplane.events.envelope import IPAM
from cplane.events.ipam import AddressAllocated, AddressReleased, PoolAdded

POOL_OF_FAMILY: Final = {4: "ipv4", 6: "ipv6"}


class PoolExhausted(Rejected):
    """No address is free."""

    code = "ipam.pool_exhausted"

    def __init__(self, pool: str, cidr: str, taken: int) -> None:
        self.pool, self.cidr, self.taken = pool, cidr, taken

    def __str__(self) -> str:
        return (
            f"address pool {self.pool!r} ({self.cidr}) has no free address, {self.taken} are in use: "
            f"delete pods or give the node a larger prefix"
        )


class AddressNotFree(Rejected):
    """The address that was asked for cannot be given."""

    code = "ipam.address_not_free"

    def __init__(self, address: str, reason: str) -> None:
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"address {self.address!r} cannot be given: {self.reason}"


class PoolInUse(Rejected):
    """A pool cannot change while addresses of it are in use."""

    code = "ipam.pool_in_use"

    def __init__(self, pool: str, cidr: str, asked: str, taken: int) -> None:
        self.pool, self.cidr, self.asked, self.taken = pool, cidr, asked, taken

    def __str__(self) -> str:
        return (
            f"address pool {self.pool!r} is {self.cidr} with {self.taken} addresses in use "
            f"and cannot become {self.asked}: keep the prefix, or delete the pods first"
        )


@dataclass(frozen=True, slots=True)
class Pool:
    """`taken` maps address → owner; `last` is the address that was given last."""

    name: str
    cidr: str
    reserved: tuple[str, ...]
    taken: Map[str, str] = field(default_factory=Map)
    last: str = ""


@dataclass(frozen=True, slots=True)
class IpamState:
    """Pool name → pool."""

    pools: Map[str, Pool] = field(default_factory=Map)


def add_pool(state: IpamState, name: str, cidr: str) -> Decision:
    """The pool exists with this prefix; refused while addresses of another prefix are in use under its name."""
    held = state.pools.get(name)
    if held is not None and held.cidr == cidr:
        return NOTHING
    if held is not None and held.taken:
        raise PoolInUse(name, held.cidr, cidr, len(held.taken))
    reserved = tuple(str(a) for a in ipam.reserved_addresses(ip_network(cidr)))
    return ((IPAM, PoolAdded(pool=name, cidr=cidr, reserved=reserved)),)


def allocate(state: IpamState, pool_name: str, owner: str, requested: str = "") -> AddressAllocated:
    """The fact that `owner` has an address of the pool: the requested one, or the next free."""
    pool = state.pools[pool_name]
    if requested:
        return AddressAllocated(pool=pool_name, address=_check(pool, requested), owner=owner)
    address = ipam.next_free(pool.cidr, pool.taken, pool.reserved, pool.last)
    if address is None:
        raise PoolExhausted(pool_name, pool.cidr, len(pool.taken))
    return AddressAllocated(pool=pool_name, address=address, owner=owner)


def _check(pool: Pool, requested: str) -> str:
    try:
        address = ip_address(requested)
    except ValueError as error:
        raise AddressNotFree(requested, "it is not an IP address") from error
    text = str(address)
    if address not in ip_network(pool.cidr):
        raise AddressNotFree(text, f"it is not in {pool.cidr}")
    if text in pool.reserved:
        raise AddressNotFree(text, "it is reserved for the network")
    if text in pool.taken:
        raise AddressNotFree(text, f"it belongs to {pool.taken[text]}")
    return text


def release(state: IpamState, address: str) -> Decision:
    """The address is free; nothing happens when it was not taken."""
    if not address:
        return NOTHING
    name = POOL_OF_FAMILY[ip_address(address).version]
    pool = state.pools.get(name)
    if pool is None or address not in pool.taken:
        return NOTHING
    return ((IPAM, AddressReleased(pool=name, address=address)),)


def evolve(state: IpamState, event: PoolAdded | AddressAllocated | AddressReleased) -> IpamState:
    """The state after one more fact."""
    if isinstance(event, PoolAdded):
        pool = Pool(event.pool, event.cidr, event.reserved)
        return IpamState(state.pools.set(event.pool, pool))
    pool = state.pools[event.pool]
    if isinstance(event, AddressAllocated):
        pool = replace(pool, taken=pool.taken.set(event.address, event.owner), last=event.address)
    elif event.address in pool.taken:
        pool = replace(pool, taken=pool.taken.delete(event.address))
    return IpamState(state.pools.set(event.pool, pool))
