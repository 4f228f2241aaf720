"""Which services an address is a frontend of, for flows to show."""

from collections.abc import Mapping
from ipaddress import ip_address

from immutables import Map

from cplane.deciders.servicestate import FrontendKey
from cplane.domain.ports import Protocol
from cplane.domain.service import ANY_ADDRESS, ServiceName
from cplane.hubble.endpoint import Service

Places = dict[tuple[int, int], Service]
"""By protocol and port."""


class FrontendNames:
    """Services by the addresses that lead to them, indexed again when there are other frontends.

    That is 1 µs for each frontend; backends come and go without it.
    """

    def __init__(self) -> None:
        self._indexed: Map[FrontendKey, tuple[int, ServiceName]] = Map()
        self._at: dict[str, Places] = {}

    def at(
        self, frontends: Map[FrontendKey, tuple[int, ServiceName]], address: bytes, *, on_node: bool
    ) -> Mapping[tuple[int, int], Service]:
        """The services of an address of 4 or 16 bytes; `on_node`: also of those that every address of the node has."""
        if frontends is not self._indexed:
            self._at = _by_address(frontends)
            self._indexed = frontends
        if not self._at:
            return {}
        own = self._at.get(str(ip_address(address)), {})
        if not on_node:
            return own
        return {**self._at.get(ANY_ADDRESS[0 if len(address) == 4 else 1], {}), **own}


def _by_address(frontends: Map[FrontendKey, tuple[int, ServiceName]]) -> dict[str, Places]:
    found: dict[str, Places] = {}
    for key, (_, name) in frontends.items():
        places = found.setdefault(key.address, {})
        place = (int(Protocol[key.protocol]), key.port)
        if key.redirect or place not in places:  # what redirects to this node takes the place of the other
            places[place] = Service(name.name, name.namespace)
    return found
