"""What readers of manifests for the load balancer share: the node that asks, notes, choices, names and addresses."""

from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from cplane.domain.policy.document import FieldError, Fields, Place, did_you_mean, shown
from cplane.domain.policy.parse import METADATA_FIELDS
from cplane.domain.policy.peers import SUBDOMAIN_MAX, is_subdomain
from cplane.domain.ports import PORT_MAX
from cplane.domain.service import canonical_address, is_ipv4
from cplane.k8s.objects import text

Notes = list[FieldError]
"""What is accepted and not served, or not as it may be meant: where, and what."""

CILIUM_PREFIX: Final = "service.cilium.io/"
_SPECIAL4: Final = ("0.0.0.0", "127.", "169.254.", "224.0.0.")  # noqa: S104  # it is refused


_BOOLEANS: Final = frozenset({bool})


class Here(NamedTuple):
    """The node that serves: its name, its labels (None: those of its Node, if that is described), its node ports.

    Without a name, everything is taken to be on this node that says on which node it is.
    """

    node: str = ""
    labels: Mapping[str, str] | None = None
    node_ports: tuple[int, int] = (30_000, 32_767)

    def has(self, node: str) -> bool:
        """Whether what is on the node of that name is here; what does not say is."""
        return not node or not self.node or node == self.node


def note(notes: Notes, place: Place, message: str) -> None:
    """Something is to be said of the value that is not an error."""
    notes.append(FieldError(place.path or "document", message))


def read_metadata(place: Place, fields: dict[str, Place]) -> dict[str, Place]:
    """The fields of an object's metadata; its name and namespace are checked."""
    if "metadata" not in fields:
        return {}  # then it has no name, which has been told
    found = fields["metadata"].fields(METADATA_FIELDS) or {}
    for step in ("name", "namespace"):
        check_name(found.get(step), step)
    return found


def check_name(place: Place | None, what: str) -> None:
    """What is there and cannot be a name is refused."""
    written = text(place)
    if place is not None and written and not is_subdomain(written):
        place.refuse(
            f"{shown(written)} is not a {what}: lower-case letters, digits, '-' and '.', at most {SUBDOMAIN_MAX}, "
            f"with a letter or digit at both ends"
        )


def only(place: Place, fields: Fields) -> bool:
    """Whether it is an object; fields that it cannot have are refused."""
    if type(place.value) is dict and place.value.keys() <= fields.known:
        return True
    return place.fields(fields) is not None


def booleans(place: Place, fields: Fields) -> Mapping[str, bool]:
    """An object of booleans; what is none is refused, and left out as what is null."""
    value = place.value
    if isinstance(value, dict) and value.keys() <= fields.known and _BOOLEANS.issuperset(map(type, value.values())):
        return value
    return {name: held for name, one in (place.fields(fields) or {}).items() if (held := one.boolean()) is not None}


def choice(place: Place | None, options: Collection[str], default: str) -> str:
    """One of these texts; another one is refused."""
    found = text(place, default)
    if found not in options and place is not None:
        place.refuse(f"unknown value {shown(found)}{did_you_mean(found, options)}; write {', '.join(options)}")
        return default
    return found


def port_number(place: Place, fields: dict[str, Place], name: str) -> int:
    """A port that must be there; 0 where it is not, which is refused."""
    if name not in fields:
        place.refuse(f"{name} is missing: write a number from 1 to {PORT_MAX}")
        return 0
    return fields[name].integer(1, PORT_MAX) or 0


def text_in(place: Place, step: str) -> str:
    """The text of a field that may not be there, without making a place for one that is right."""
    held = place.value.get(step) if isinstance(place.value, dict) else None
    if held is None or type(held) is str:
        return held or ""
    return place.child(step, held).text() or ""


def address_of(written: object) -> str:
    """An address in its shortest form. Raises ValueError with what is wrong."""
    if not isinstance(written, str):
        raise ValueError(f"expected an address in quotes, got {shown(written)}")  # noqa: TRY004  # caught as the others
    try:
        return canonical_address(written)
    except ValueError:
        raise ValueError(f"{shown(written)} is not an IP address") from None


def usable_address_of(written: object) -> str:
    """An address at which something in a network can be. Raises ValueError, for the same ones as Kubernetes."""
    found = written if isinstance(written, str) and is_ipv4(written) else address_of(written)
    if found.startswith(_SPECIAL4) if ":" not in found else _is_special(found):
        raise ValueError(f"{found} is loopback, link-local, multicast or unspecified: write an address of the network")
    return found


def any_address(place: Place) -> str:
    """An address in its shortest form; empty where it is none, which is refused."""
    return _refused(place, address_of)


def usable_address(place: Place) -> str:
    """An address at which something in a network can be; empty where it is none, which is refused."""
    return _refused(place, usable_address_of)


def _refused(place: Place, read: Callable[[object], str]) -> str:
    try:
        return read(place.value)
    except ValueError as error:
        place.refuse(str(error))
        return ""


def _is_special(text: str) -> bool:
    address = ip_address(text)
    return address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast
