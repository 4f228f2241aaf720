"""A repository in which everything comes and goes, and a record of what there is, to build it anew from."""

from random import Random
from typing import Any

from cplane.domain.policy.mapstate import MapEntry, MapKey
from cplane.domain.policy.repository import AUDIT_PLANE, Enforcement, Repository
from cplane.domain.ports import NamedPorts
from tests.support import random_policies
from tests.support.builders import Document, parsed
from tests.support.policies import IDENTITIES, SUBJECTS, Setting, apply, own_ports, peer_ports, service_of
from tests.support.random_policies import GROUPS, SERVICES

Rows = dict[tuple[int, MapKey], MapEntry]


class Changing:
    """`repository` after the steps that were taken; `rows` is what following its changes has given so far."""

    def __init__(self) -> None:
        self.repository = Repository()
        self.rows: Rows = {}
        self.identities: set[int] = set()
        self.ports: dict[int, NamedPorts] = {}
        self.subjects: dict[int, NamedPorts] = {}
        self.policies: dict[object, Document] = {}
        self.groups: dict[str, Document] = {}
        self.services: dict[str, dict[str, Any]] = {}
        self.mode = "default"

    @property
    def setting(self) -> Setting:
        """The mode, the groups and the services that there are."""
        return Setting(self.mode, tuple(self.groups.values()), tuple(self.services.values()))

    def step(self, chance: Random) -> None:
        """One thing comes, changes or goes."""
        kind = chance.randrange(16)
        if kind < 5:
            self.identity(chance.choice(sorted(IDENTITIES)))
        elif kind < 7:
            number = chance.choice(sorted(SUBJECTS))
            self.set_ports(number, chance.choice((own_ports(number), peer_ports(number), frozenset())))
        elif kind < 9:
            self.subject(chance.choice(sorted(SUBJECTS)))
        elif kind < 13:
            self.policy(random_policies.document(chance), remove=not chance.randrange(3))
        elif kind == 13:
            self.group(chance.choice(GROUPS), chance)
        elif kind == 14:
            self.service(random_policies.services(chance, chance.choice(SERVICES)))
        else:
            self.mode = chance.choice(("default", "default", "always", "never"))
            self.repository.set_enforcement(Enforcement(self.mode))
        if chance.randrange(3):
            self.drain()

    def identity(self, number: int) -> None:
        """It comes, or goes."""
        if number in self.identities:
            self.identities.discard(number)
            self.repository.remove_identity(number)
        else:
            self.identities.add(number)
            self.repository.add_identity(number, *IDENTITIES[number])

    def set_ports(self, number: int, ports: NamedPorts) -> None:
        """Its endpoints have these named ports."""
        self.ports[number] = ports
        self.repository.set_ports(number, ports)

    def subject(self, number: int) -> None:
        """It comes, or goes."""
        if number in self.subjects:
            del self.subjects[number]
            self.repository.remove_subject(number)
        else:
            self.subjects[number] = own_ports(number)
            self.repository.add_subject(number, SUBJECTS[number], own_ports(number))

    def policy(self, document: Document, *, remove: bool) -> None:
        """It comes or changes, or the one of this name goes."""
        ref = parsed(document).ref
        if remove:
            self.policies.pop(ref, None)
            self.repository.delete(ref)
        else:
            self.policies[ref] = document
            apply(self.repository, document)

    def group(self, name: str, chance: Random) -> None:
        """It comes, changes or goes."""
        if name in self.groups and chance.randrange(2):
            del self.groups[name]
            self.repository.set_group(name, None)
        else:
            self.groups[name] = random_policies.cidr_group(chance, name)
            apply(self.repository, self.groups[name])

    def service(self, written: dict[str, Any]) -> None:
        """It comes or changes."""
        self.services[f"{written['namespace']}/{written['name']}"] = written
        self.repository.set_service(service_of(written))

    def drain(self) -> None:
        """Follows the changes since the last time."""
        for subjects, key, was, entry in self.repository.changes():
            for subject in subjects:
                assert self.rows.get((subject, key)) == was
                if entry is None:
                    self.rows.pop((subject, key), None)
                else:
                    self.rows[subject, key] = entry

    def from_scratch(self) -> Repository:
        """Another repository with all that there is, in another order than it came."""
        made = Repository(Enforcement(self.mode))
        for document in reversed([*self.groups.values(), *self.policies.values()]):
            apply(made, document)
        for number, ports in sorted(self.subjects.items(), reverse=True):
            made.add_subject(number, SUBJECTS[number], ports)
        for number in sorted(self.identities):
            made.add_identity(number, *IDENTITIES[number])
        for number, ports in sorted(self.ports.items()):
            made.set_ports(number, ports)
        for written in reversed(self.services.values()):
            made.set_service(service_of(written))
        return made


def entries(repository: Repository) -> Rows:
    """Every entry of every state."""
    return {
        (subject, key): entry
        for number in repository.subjects()
        for subject in (number, number | AUDIT_PLANE)
        if (state := repository.state(subject)) is not None
        for key, entry in state.entries().items()
    }
