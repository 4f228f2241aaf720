"""A cluster of any size, the same each time: identities, rules and subjects as large clusters have them.

There is a namespace for each hundred identities. Rules are of ten kinds in turn, and all of a namespace are about pods
of that namespace, whose peers they name within it, across namespaces, and outside of the cluster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from cplane.domain.cidr import Prefix
from cplane.domain.identity import CLUSTER_MIN, LOCAL_MIN, Reserved, cidr_labels
from cplane.domain.labels import LabelSet
from cplane.domain.policy import Policy
from cplane.domain.policy.repository import Repository
from cplane.events.catalog import Event
from cplane.events.endpoint import EndpointCreated
from cplane.events.envelope import ENDPOINT, IDENTITY, NODE, POLICY, StreamId
from tests.support.builders import (
    DUAL_STACK,
    Document,
    allocated,
    ccnp,
    cnp,
    knp,
    pod_labels,
    policy,
    ports,
    selector,
    upserted,
)
from tests.support.scenario import endpoint_created

APPS, VERSIONS, TEAMS, PREFIXES = 25, 4, 20, 500
NAMESPACE = "k8s:io.kubernetes.pod.namespace"
ACCOUNT = "io.cilium.k8s.policy.serviceaccount"
TEAM = "io.cilium.k8s.namespace.labels.team"


@dataclass(frozen=True)
class Scale:
    """How much there is of each."""

    identities: int = 50_000
    rules: int = 5_000
    subjects: int = 100

    @property
    def namespaces(self) -> int:
        """How many there are: a hundred identities are in each, which are apps in versions."""
        return max(1, self.identities // (APPS * VERSIONS))

    def number(self, index: int) -> int:
        """The identity of an index, from 0."""
        return CLUSTER_MIN + index

    def labels(self, index: int) -> LabelSet:
        """What the identity stands for."""
        namespace, of_namespace = index % self.namespaces, index // self.namespaces
        app, version = of_namespace % APPS, of_namespace // APPS
        return pod_labels(
            f"app=app-{app}",
            f"version=v{version}",
            f"tier=tier-{app % 3}",
            f"{TEAM}=team-{namespace % TEAMS}",
            f"{ACCOUNT}=sa-{app}",
            namespace=f"ns-{namespace}",
        )

    def is_subject(self, index: int) -> bool:
        """Whether rules are about the identity: in each namespace they are about one app."""
        return index // self.namespaces % APPS == index % self.namespaces % APPS

    def document(self, index: int) -> Document:
        """The policy of an index, of one rule."""
        namespace, turn = index % self.namespaces, index // self.namespaces
        where, app = f"ns-{namespace}", namespace % APPS
        subject, peer = selector(f"app=app-{app}"), selector(f"app=app-{(app + turn + 1) % APPS}")
        rule: dict[str, Any]
        match turn % 10:
            case 0:
                rule = {"ingress": [{"fromEndpoints": [peer], "toPorts": ports("80/TCP", "443/TCP")}]}
            case 1:
                rule = {"ingress": [{"fromEndpoints": [{}], "toPorts": ports("8080/TCP")}]}
            case 2:
                elsewhere = selector(f"k8s:{TEAM}=team-{(namespace + 1) % TEAMS}", f"app=app-{app}")
                rule = {"egress": [{"toEndpoints": [elsewhere], "toPorts": ports("9000-9099/TCP")}]}
            case 3:
                rule = {"egress": [{"toCIDRSet": [{"cidr": f"10.{index % PREFIXES // 2}.0.0/16"}]}]}
            case 4:
                rule = {"ingress": [{"fromEntities": ["host", "remote-node"], "toPorts": ports("9090/TCP")}]}
            case 5:
                there = {"namespaceSelector": selector(f"team=team-{namespace % TEAMS}"), "podSelector": peer}
                spec = {"ingress": [{"from": [there], "ports": [{"port": 5432}]}]}
                return knp(f"p-{index}", namespace=where, podSelector=subject, **spec)
            case 6:
                rule = {"ingressDeny": [{"fromEndpoints": [selector(f"tier=tier-{app % 3}", "version=v3")]}]}
            case 7:
                rule = {"egress": [{"toEndpoints": [peer], "toPorts": ports("1000-2000/TCP", "53/UDP")}]}
            case 8:
                dns = selector(f"{NAMESPACE}=ns-0", "app=app-0")
                rule = {"egress": [{"toEndpoints": [dns], "toPorts": ports("53")}]}
            case _:
                own = selector(f"{NAMESPACE}={where}", f"app=app-{app}")
                return ccnp(f"p-{index}", subject=own, ingress=[{"fromEndpoints": [peer], "toPorts": ports("80/TCP")}])
        return cnp(f"p-{index}", namespace=where, subject=subject, **rule)

    def policies(self) -> Iterator[Policy]:
        """All policies."""
        return (policy(self.document(index)) for index in range(self.rules))

    def subject_indices(self) -> list[int]:
        """Which identities have endpoints here: in each of as many namespaces the app that its rules are about."""
        homes = range(min(self.subjects, self.namespaces))
        return [home + self.namespaces * (home % APPS) for home in homes if home + self.namespaces < self.identities]

    def prefixes(self) -> Iterator[tuple[int, Prefix]]:
        """The prefixes that rules name, and the numbers of their identities."""
        return ((LOCAL_MIN + index, ip_network(f"10.{index}.0.0/16")) for index in range(PREFIXES // 2))

    def repository(self) -> Repository:
        """All of it, to be drained."""
        found = Repository()
        for reserved in Reserved:
            found.add_identity(reserved, reserved.labels)
        for index in range(self.identities):
            found.add_identity(self.number(index), self.labels(index))
        for number, prefix in self.prefixes():
            found.add_identity(number, cidr_labels(prefix, dual_stack=True), prefix)
        for index in self.subject_indices():
            found.add_subject(self.number(index), self.labels(index))
        for one in self.policies():
            found.upsert(one)
        return found

    def events(self) -> Iterator[tuple[StreamId, Event]]:
        """All of it as facts, in streams, for worlds and tables."""
        yield NODE, DUAL_STACK
        for index in range(self.identities):
            yield IDENTITY, allocated(self.number(index), self.labels(index))
        for number, prefix in self.prefixes():
            yield IDENTITY, allocated(number, cidr_labels(prefix, dual_stack=True))
        for index in range(self.rules):
            yield POLICY, upserted(self.document(index))
        for endpoint, index in enumerate(self.subject_indices(), 1):
            yield ENDPOINT, self.endpoint(endpoint, index)

    def endpoint(self, endpoint: int, index: int) -> EndpointCreated:
        """The fact that an identity has an endpoint here."""
        address = f"10.1.{endpoint // 250}.{endpoint % 250 + 2}"
        labels = self.labels(index).texts()
        return endpoint_created(
            endpoint=endpoint,
            ipv4=address,
            ipv6="",
            identity=self.number(index),
            labels=labels,
            host_ifindex=endpoint + 10,
        )

    def newcomer(self) -> tuple[int, LabelSet]:
        """One identity more, which rules about the subjects select: an app of the first namespace in a new version."""
        labels = pod_labels(
            "app=app-1", "version=v9", "tier=tier-1", f"{TEAM}=team-0", f"{ACCOUNT}=sa-1", namespace="ns-0"
        )
        return self.number(self.identities), labels

    def another_rule(self) -> Document:
        """One rule more, about a subject: it lets its whole namespace in, at another port."""
        allow = {"fromEndpoints": [{}], "toPorts": ports("7777/TCP")}
        return cnp("another", namespace="ns-0", subject={}, ingress=[allow])

    def another_subject(self) -> int:
        """The index of an identity without an endpoint here, about which there are rules."""
        home = self.namespaces - 1
        return home + self.namespaces * (home % APPS)


def drain(repository: Repository) -> int:
    """Follows the changes; how many there were."""
    return sum(len(numbers) for numbers, _, _, _ in repository.changes())


def many_entries(entries: int = 16_000) -> tuple[Repository, int]:
    """A subject whose one policy has so many entries, one for each identity, and its number."""
    scale = Scale(identities=entries, rules=0)
    found = Repository()
    for index in range(entries):
        found.add_identity(scale.number(index), scale.labels(index))
    number = scale.number(0)
    found.add_subject(number, scale.labels(0))
    found.upsert(policy(ccnp("all", ingress=[{"fromEndpoints": [{}], "toPorts": ports("80/TCP")}])))
    return found, number
