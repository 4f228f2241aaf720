"""A cluster on paper: every end that traffic can have, with its identity, and the policy of each that has one.

Each pod sees its own node as the host and all others as remote nodes, so pods on nodes that serve the Kubernetes API,
where the host itself is the `kube-apiserver`, are kept apart from the others. Nodes have policies of their own.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from cplane.domain.cidr import Prefix
from cplane.domain.identity import CLUSTER_MAX, CLUSTER_MIN, LOCAL_MIN, Reserved, cidr_labels
from cplane.domain.labelfilter import identity_labels
from cplane.domain.labels import K8S, Label, LabelSet
from cplane.domain.policy import Policy, directory
from cplane.domain.policy.explanation import PeerIdentity
from cplane.domain.policy.repository import Enforcement, Repository
from cplane.domain.ports import NamedPorts
from cplane.errors import Rejected
from cplane.k8s.manifests import Manifests
from cplane.k8s.namespaces import pod_labels
from cplane.k8s.nodes import Node, node_identity
from cplane.k8s.pods import Pod
from cplane.k8s.services import Service

NO_PORTS: Final[NamedPorts] = frozenset()
_API_SERVICE: Final = ("default", "kubernetes")
_WORLDS: Final[Mapping[Reserved, Prefix]] = {
    Reserved.WORLD_IPV4: ip_network("0.0.0.0/0"),
    Reserved.WORLD_IPV6: ip_network("::/0"),
}
_NETWORKS: Final[Mapping[int, type[IPv4Network] | type[IPv6Network]]] = {4: IPv4Network, 6: IPv6Network}
_OTHERS: Final = tuple(one for one in Reserved if one not in {Reserved.WORLD, *_WORLDS})
_HOST_APISERVER: Final = Reserved.HOST.labels.union(LabelSet((Label(Reserved.KUBE_APISERVER.label_key, "reserved"),)))


class SceneTooLarge(Rejected):
    """There are more distinct sets of labels than a cluster has identities."""

    code = "scene.too_large"


@dataclass(frozen=True, slots=True)
class End:
    """One side of traffic. `subject` is whose policy it obeys, 0: none; for a node its identity depends on who looks.

    `node` is the name of the node that it is on or is; empty where that is not known, or outside the cluster.
    """

    name: str
    identity: int
    labels: LabelSet
    node: str = ""
    subject: int = 0
    ports: NamedPorts = NO_PORTS
    host: Node | None = None
    pod: Pod | None = None

    def __str__(self) -> str:
        return self.name


class Scene:
    """What manifests describe, in a cluster of that name with IPv4 and IPv6."""

    def __init__(self, manifests: Manifests, *, cluster: str, enforcement: Enforcement = Enforcement.DEFAULT) -> None:
        self.manifests = manifests
        self._cluster, self._enforcement = cluster, enforcement
        self._numbers: dict[LabelSet, int] = {}
        self._ports: dict[int, NamedPorts] = {}  # of identities: those of all pods that have it
        self._subjects: dict[tuple[int, NamedPorts], int] = {}
        self.nodes: dict[str, End] = {}
        self.pods: dict[str, End] = {}
        self._by_address: dict[str, End] = {}
        for node in self._all_nodes():
            self._add_node(node)
        for pod in manifests.pods.values():
            self._add_pod(pod)
        self.ports = NO_PORTS.union(*self._ports.values())
        self.prefixes = self._all_prefixes()
        self._lengths = {
            v: sorted({p.prefixlen for p in self.prefixes if p.version == v}, reverse=True) for v in (4, 6)
        }
        self._endpoints: dict[bool, Repository] = {}
        self._hosts: Repository | None = None

    def outside(self, text: str) -> End:
        """What has an address: a pod or node, or else the longest prefix that anything names. Raises ValueError."""
        address = ip_address(text)
        found = self._by_address.get(str(address))
        if found is not None:
            return found
        bits = address.max_prefixlen
        for length in self._lengths[address.version]:
            end = self.prefixes.get(
                _NETWORKS[address.version]((int(address) >> bits - length << bits - length, length))
            )
            if end is not None:
                return replace(end, name=str(address))
        raise AssertionError(f"{address} is in no prefix, not even the world")

    def peer(self, end: End, seen_from: End) -> PeerIdentity:
        """What an end is to another."""
        if end.host is None:
            return PeerIdentity(end.identity, end.labels)
        reserved = node_identity(end.host, seen_from.node)
        labels = reserved.labels
        if reserved is Reserved.HOST and end.host.apiserver:
            labels = _HOST_APISERVER
        return PeerIdentity(int(reserved), labels)

    def repository(self, end: End) -> Repository:
        """Who knows the policy of an end that has one."""
        assert end.subject, f"{end} obeys no policy"
        if end.host is not None:
            if self._hosts is None:
                self._hosts = self._make_hosts()
            return self._hosts
        node = self.nodes.get(end.node)
        apiserver = node is not None and node.host is not None and node.host.apiserver
        if apiserver not in self._endpoints:
            self._endpoints[apiserver] = self._make_endpoints(apiserver=apiserver)
        return self._endpoints[apiserver]

    def policies(self, *, about_nodes: bool) -> Iterator[Policy]:
        """All policies, each with only those of its rules that are about nodes, or about endpoints."""
        for written in self.manifests.policies:
            rules = tuple(rule for rule in written.policy.rules if rule.about_nodes is about_nodes)
            if rules:
                yield replace(written.policy, rules=rules)

    def pods_of(self, service: Service) -> Iterator[End]:
        """The pods that the selector of a service selects, those that have ended left out."""
        for end in self.pods.values() if service.selector else ():
            pod = end.pod
            assert pod is not None, "this end is a pod"
            if pod.ended or pod.namespace != service.namespace:
                continue
            if service.selector.items() <= pod.labels.items():
                yield end

    def _all_nodes(self) -> Iterator[Node]:
        """Nodes that are described, and those that only pods name."""
        pods = self.manifests.pods.values()
        names = list(dict.fromkeys((*self.manifests.nodes, *(pod.node for pod in pods if pod.node))))
        if len(names) != 1:  # then a pod that is its node and does not say which is one of its own
            names += [str(pod) for pod in pods if pod.host_network and not pod.node]
        serving = self._api_addresses()
        for name in names:
            node = self.manifests.nodes.get(name) or Node(name, {})
            yield replace(node, apiserver=node.apiserver or not serving.isdisjoint(node.addresses))

    def _api_addresses(self) -> frozenset[str]:
        return frozenset(
            address
            for one in self.manifests.slices
            if (one.namespace, one.service) == _API_SERVICE
            for endpoint in one.endpoints
            for address in endpoint.addresses
        )

    def _add_node(self, node: Node) -> None:
        end = End(f"node/{node.name}", 0, node.subject_labels, node.name, len(self.nodes) + 1, host=node)
        self.nodes[node.name] = end
        self._by_address.update(dict.fromkeys(node.addresses, end))

    def _node_of(self, pod: Pod) -> str:
        """The node that a pod is on; one that does not say is on the only one there is."""
        return pod.node or (next(iter(self.nodes)) if len(self.nodes) == 1 else "")

    def _add_pod(self, pod: Pod) -> None:
        node = self._node_of(pod)
        if pod.host_network:
            host = self.nodes[node or str(pod)]
            self.pods[str(pod)] = replace(host, name=str(pod), ports=pod.ports, pod=pod)
            for address in pod.addresses:
                self._by_address.setdefault(address, host)
            return
        namespace = self.manifests.namespace(pod.namespace)
        labels = identity_labels(pod_labels(pod.labels, namespace, pod.service_account, self._cluster))
        identity = self._numbers.setdefault(labels, CLUSTER_MIN + len(self._numbers))
        if identity > CLUSTER_MAX:
            raise SceneTooLarge(f"more than {CLUSTER_MAX - CLUSTER_MIN + 1} distinct sets of labels: give fewer pods")
        self._ports[identity] = self._ports.get(identity, NO_PORTS) | pod.ports
        subject = self._subjects.setdefault((identity, pod.ports), len(self._subjects) + 1)
        end = self.pods[str(pod)] = End(str(pod), identity, labels, node, subject, pod.ports, pod=pod)
        self._by_address.update(dict.fromkeys(pod.addresses, end))

    def _all_prefixes(self) -> dict[Prefix, End]:
        """The world, and every prefix that a policy, a group or a service names, as an end of its own."""
        found = {prefix: End(str(prefix), int(world), world.labels) for world, prefix in _WORLDS.items()}
        serving = {ip_network(address) for address in self._api_addresses() if address not in self._by_address}
        named = set(serving)
        for group in self.manifests.groups:
            named.update(group.cidrs())
        for written in self.manifests.policies:
            named.update(written.policy.cidrs())
        for service in self.services():
            named.update(map(ip_network, service.addresses))
        ordered = sorted(named, key=lambda one: (one.version, int(one.network_address), one.prefixlen))
        for step, prefix in enumerate(ordered):
            labels = cidr_labels(prefix, dual_stack=True)
            if prefix in serving:
                labels = labels.union(LabelSet((Label(Reserved.KUBE_APISERVER.label_key, "reserved"),)))
            found[prefix] = End(str(prefix), LOCAL_MIN + step, labels)
        return found

    def services(self) -> Iterator[directory.Service]:
        """Services as rules refer to them; the addresses of one without a selector are those of its slices."""
        backends: dict[tuple[str, str], dict[str, None]] = {}
        for one in self.manifests.slices:
            held = backends.setdefault((one.namespace, one.service), {})
            held.update((address, None) for endpoint in one.endpoints for address in endpoint.addresses)
        for key, service in self.manifests.services.items():
            labels = LabelSet(tuple(Label(name, K8S, value) for name, value in service.labels.items()))
            addresses = () if service.selector else tuple(backends.get(key, ()))
            yield directory.Service(*key, labels, tuple(sorted(service.selector.items())), addresses)

    def _make_endpoints(self, *, apiserver: bool) -> Repository:
        made = self._make(self._enforcement, _HOST_APISERVER if apiserver else Reserved.HOST.labels, about_nodes=False)
        for end in {end.subject: end for end in self._endpoints_on(apiserver=apiserver)}.values():
            made.add_subject(end.subject, end.labels, end.ports)
        return made

    def _endpoints_on(self, *, apiserver: bool) -> Iterable[End]:
        serving = {name for name, end in self.nodes.items() if end.host is not None and end.host.apiserver}
        return (end for end in self.pods.values() if end.host is None and (end.node in serving) is apiserver)

    def _make_hosts(self) -> Repository:
        """Hosts have policies only where a policy is about nodes: without one their firewall is off."""
        off = not any(self.policies(about_nodes=True))
        made = self._make(Enforcement.NEVER if off else self._enforcement, Reserved.HOST.labels, about_nodes=True)
        for end in self.nodes.values():
            made.add_subject(end.subject, end.labels)
        return made

    def _make(self, enforcement: Enforcement, host: LabelSet, *, about_nodes: bool) -> Repository:
        made = Repository(enforcement)
        for service in self.services():
            made.set_service(service)
        for group in self.manifests.groups:
            made.set_group(group.ref.name, group)
        for reserved in _OTHERS:
            made.add_identity(int(reserved), host if reserved is Reserved.HOST else reserved.labels)
        for prefix, end in self.prefixes.items():
            made.add_identity(end.identity, end.labels, prefix)
        for labels, number in self._numbers.items():
            made.add_identity(number, labels)
            made.set_ports(number, self._ports[number])
        for policy in self.policies(about_nodes=about_nodes):
            made.upsert(policy)
        return made
