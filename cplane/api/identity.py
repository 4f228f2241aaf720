"""Identities and the ipcache over gRPC."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from cplane.api.ports import Engine
from cplane.deciders.world import World
from cplane.domain.identity import RESERVED_BY_NUMBER, NumericIdentity, is_local
from cplane.domain.labels import K8S, LabelSet
from cplane.errors import NotFound
from cplane.pb.cplane.admin import v1 as pb
from cplane.projections.rows import prefix_of

IPCACHE: Final = "ipcache"


class NoSuchIdentity(NotFound):
    """Nothing has that number, or those labels."""

    code = "identity.not_found"

    def __init__(self, what: str) -> None:
        self.what = what

    def __str__(self) -> str:
        return f"there is no identity {self.what}: `cplane identity list` shows those that are"


class IdentityService(pb.IdentityServiceBase):
    """Shows which numbers stand for which labels."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self, message: pb.ListIdentitiesRequest) -> pb.ListIdentitiesResponse:
        """All identities by number, the reserved ones first."""
        world = self._engine.world
        users = _users(world)
        identities = [_to_pb(number, labels, users) for number, labels in sorted(_all(world), key=lambda pair: pair[0])]
        return pb.ListIdentitiesResponse(position=world.position, identities=identities)

    async def get(self, message: pb.GetIdentityRequest) -> pb.GetIdentityResponse:
        """One identity. Raises NoSuchIdentity and BadLabel."""
        world = self._engine.world
        number, labels = _find(world, message)
        return pb.GetIdentityResponse(position=world.position, identity=_to_pb(number, labels, _users(world)))


class IpService(pb.IpServiceBase):
    """Shows which identity is behind an address, and why."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self, message: pb.ListIpsRequest) -> pb.ListIpsResponse:
        """Every prefix that the node wants in its ipcache, IPv4 first."""
        world = self._engine.world
        labels = dict(_all(world))
        owners = {address: one.id for one in world.endpoints.values() for address in one.addresses}
        prefixes = {prefix_of(key): info for key, info in self._engine.desired(IPCACHE).items()}
        entries = []
        for prefix in sorted(prefixes, key=_by_family):
            number = prefixes[prefix].identity
            owner = owners.get(str(prefix.network_address), 0) if prefix.prefixlen == prefix.max_prefixlen else 0
            held = labels.get(number)
            entries.append(
                pb.IpEntry(
                    prefix=str(prefix),
                    identity=number,
                    labels=[*held.texts()] if held else [],
                    source="endpoint" if owner else _source(number, world),
                    endpoint=owner,
                )
            )
        return pb.ListIpsResponse(position=world.position, entries=entries)


def _by_family(prefix: IPv4Network | IPv6Network) -> tuple[int, int, int]:
    return (prefix.version, int(prefix.network_address), prefix.prefixlen)


def _source(number: int, world: World) -> str:
    if number in world.fqdn.users:
        return "name"
    if number in RESERVED_BY_NUMBER:
        return "world" if "world" in RESERVED_BY_NUMBER[NumericIdentity(number)].label_key else "host"
    return "policy"


def _all(world: World) -> Iterator[tuple[int, LabelSet]]:
    for number, reserved in RESERVED_BY_NUMBER.items():
        yield number, reserved.labels
    yield from world.identities.items()


def _users(world: World) -> Mapping[int, list[int]]:
    users: defaultdict[int, list[int]] = defaultdict(list)
    for endpoint in sorted(world.endpoints):
        users[world.endpoints[endpoint].identity].append(endpoint)
    return users


def _find(world: World, message: pb.GetIdentityRequest) -> tuple[int, LabelSet]:
    known = dict(_all(world))
    if not message.labels:
        if message.number not in known:
            raise NoSuchIdentity(str(message.number))
        return message.number, known[message.number]
    wanted = LabelSet.parse(message.labels, K8S)
    for number, labels in known.items():
        if labels == wanted:
            return number, labels
    raise NoSuchIdentity(f"with exactly the labels {', '.join(wanted.texts())}")


def _to_pb(number: int, labels: LabelSet, users: Mapping[int, list[int]]) -> pb.Identity:
    scope = pb.Scope.CLUSTER
    if number in RESERVED_BY_NUMBER:
        scope = pb.Scope.RESERVED
    elif is_local(NumericIdentity(number)):
        scope = pb.Scope.LOCAL
    return pb.Identity(number=number, labels=[*labels.texts()], scope=scope, endpoints=users.get(number, []))
