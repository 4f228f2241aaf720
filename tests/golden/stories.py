"""What was asked of the agents whose logs are recorded in `logs/`. Each step is one command; its name is its cause."""

from dataclasses import replace
from typing import Final

from cplane.deciders.config import ChangeOptions
from cplane.deciders.endpoint import ConfigureEndpoint, DeleteEndpoint, RelabelEndpoint
from cplane.deciders.fqdn import Answer, Ended, ExpireNames, RecordAnswers
from cplane.deciders.node import JoinNode, SetNodeAddresses
from cplane.deciders.policy import ApplyPolicies, DeletePolicies
from cplane.deciders.service import ApplyServices, ChangeServiceOptions, DeleteServices, SetBackendState
from cplane.domain.policy import CCNP, CIDR_GROUP, CNP, PolicyRef
from cplane.domain.ports import Protocol
from cplane.domain.service import (
    Algorithm,
    Backend,
    Backends,
    BackendState,
    Frontend,
    FrontendKind,
    Service,
    ServiceName,
    ServiceOptions,
)
from tests.support.builders import ccnp, cnp, document, ports, selector
from tests.support.recording import Step
from tests.support.scenario import pod

REQUIRED = {"mode": "required"}
WEB = cnp(
    "web",
    subject=selector("app=web"),
    ingress=[{"fromEndpoints": [selector("app=client")], "toPorts": ports("80/TCP", "8000-8015/TCP")}],
    ingressDeny=[{"fromEndpoints": [selector("app=client", "tier=old")]}],
)
DB = cnp(
    "db",
    subject=selector("app=db"),
    ingress=[{"fromEndpoints": [selector("app=web")], "toPorts": ports("5432/TCP")}],
    egress=[{"toCIDRSet": [{"cidr": "203.0.113.0/24", "except": ["203.0.113.7/32"]}]}, {"toEntities": ["host"]}],
)
EVERYTHING = ccnp("icmp", ingress=[{"icmps": [{"fields": [{"type": 8}, {"type": 128, "family": "IPv6"}]}]}])

SHOP: Final[tuple[Step, ...]] = (
    (
        "the node joins",
        JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.1.0.0/24", ipv6_pod_cidr="fd00:1::/112"),
    ),
    ("addresses of the node", SetNodeAddresses(addresses=("192.0.2.1", "2001:db8::1"))),
    ("add web", pod("web", "k8s:app=web", ifindex=10)),
    ("add client", pod("client", "k8s:app=client", ifindex=11)),
    ("policies for web and db", ApplyPolicies(documents=(document(WEB), document(DB)))),
    ("add db", pod("db", "k8s:app=db", ifindex=12)),
    ("client becomes old", lambda world: RelabelEndpoint(endpoint=2, labels=(*labels(world, 2), "k8s:tier=old"))),
    ("a policy for everything", ApplyPolicies(documents=(document(EVERYTHING),))),
    ("addresses of the node change", SetNodeAddresses(addresses=("192.0.2.9",))),
    ("no policy for db", DeletePolicies(refs=(PolicyRef(CNP, "shop", "db"),))),
    ("remove web", DeleteEndpoint(container_id="c-web", container_interface="eth0")),
    ("no policy for everything", DeletePolicies(refs=(PolicyRef(CCNP, "", "icmp"),))),
)

GROWING: Final[tuple[Step, ...]] = (
    ("the node joins with IPv4", JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.2.0.0/24", ipv6_pod_cidr="")),
    ("add a pod", pod("a", "k8s:app=a", ifindex=20)),
    (
        "the world may come",
        ApplyPolicies(
            documents=(document(cnp("a", subject=selector("app=a"), ingress=[{"fromEntities": ["world"]}])),)
        ),
    ),
    (
        "the node has IPv6 too",
        JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.2.0.0/24", ipv6_pod_cidr="fd00:2::/112"),
    ),
    ("add another pod", pod("b", "k8s:app=a", ifindex=21)),
)

AUDITED = cnp("dry", subject=selector("app=api"), ingress=[{"fromEndpoints": [selector("app=web")]}])
AUDITED["metadata"]["annotations"] = {"policy.cplane.io/audit": "true"}
PARTNERS = {
    "apiVersion": "cilium.io/v2",
    "kind": CIDR_GROUP,
    "metadata": {"name": "partners"},
    "spec": {"externalCIDRs": ["203.0.113.0/24", "2001:db8:7::/48"]},
}
API = cnp(
    "api",
    subject=selector("app=api"),
    ingress=[{"fromEndpoints": [{}], "toPorts": ports("http/TCP")}],
    egress=[{"toCIDRSet": [{"cidrGroupRef": "partners"}]}, {"toEntities": ["host"], "authentication": REQUIRED}],
)

DRY_RUN: Final[tuple[Step, ...]] = (
    (
        "the node joins",
        JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.3.0.0/24", ipv6_pod_cidr="fd00:3::/112"),
    ),
    ("add web", pod("web", "k8s:app=web", ifindex=30)),
    ("add api", replace(pod("api", "k8s:app=api", ifindex=31), named_ports=("http=8080/TCP",))),
    ("add another api", replace(pod("api2", "k8s:app=api", ifindex=32), named_ports=("http=9090/TCP",))),
    ("a policy is only audited", ApplyPolicies(documents=(document(AUDITED),))),
    ("a policy by names", ApplyPolicies(documents=(document(PARTNERS), document(API)))),
    ("one endpoint is only audited", ConfigureEndpoint(endpoint=2, audit=True)),
    ("everything is enforced", ChangeOptions(policy_enforcement="always")),
    ("all endpoints are only audited", ChangeOptions(policy_audit=True)),
    ("the partners are gone", DeletePolicies(refs=(PolicyRef(CIDR_GROUP, "", "partners"),))),
)

SHOP_WEB = ServiceName("shop", "web")
SHOP_DNS = ServiceName("shop", "dns")
WEB_FRONTENDS = (
    Frontend("10.96.0.10", 80, Protocol.TCP, port_name="http"),
    Frontend("fd00:96::10", 80, Protocol.TCP, port_name="http"),
    Frontend("0.0.0.0", 30080, Protocol.TCP, FrontendKind.NODE_PORT, "http"),  # any address of the node
    Frontend("203.0.113.10", 80, Protocol.TCP, FrontendKind.LOAD_BALANCER, "http"),
)
WEB_SERVICE = Service(
    name=SHOP_WEB,
    frontends=WEB_FRONTENDS,
    labels=("app=web",),
    selector=("app=web",),
    affinity_s=60,
    external_local=True,
    source_ranges=("192.0.2.0/24",),
)
DNS_SERVICE = Service(
    name=SHOP_DNS,
    frontends=(Frontend("10.96.0.53", 53, Protocol.UDP), Frontend("10.96.0.53", 53, Protocol.TCP)),
    algorithm=Algorithm.MAGLEV,
)


def web_backends(*addresses: str, **more: object) -> Backends:
    """Backends of the web service, port 8080."""
    made = tuple(Backend(address, 8080, Protocol.TCP, "http", **more) for address in addresses)
    return Backends(SHOP_WEB, "slice/web-1", made)


SERVICES: Final[tuple[Step, ...]] = (
    (
        "the node joins",
        JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.4.0.0/24", ipv6_pod_cidr="fd00:4::/112"),
    ),
    ("small tables", ChangeServiceOptions(options=ServiceOptions(maglev_size=251))),
    ("add web", pod("web", "k8s:app=web", ifindex=40)),
    (
        "two services",
        ApplyServices(
            services=(WEB_SERVICE, DNS_SERVICE),
            backends=(
                web_backends("10.4.0.2", "10.9.0.7", "fd00:4::2"),
                Backends(SHOP_DNS, "slice/dns-1", (Backend("10.9.0.8", 53, Protocol.UDP, weight=3),)),
            ),
        ),
    ),
    (
        "a backend is looked after",
        SetBackendState(address="10.9.0.7", port=8080, protocol=Protocol.TCP, state=BackendState.MAINTENANCE),
    ),
    (
        "web ends",
        ApplyServices(backends=(web_backends("10.4.0.2", "fd00:4::2", state=BackendState.TERMINATING, node="n1"),)),
    ),
    (
        "by Maglev from outside",
        ChangeServiceOptions(options=ServiceOptions(algorithm=Algorithm.MAGLEV, maglev_size=251)),
    ),
    ("no dns", DeleteServices(names=(SHOP_DNS,))),
)

EXTERNAL = cnp(
    "external",
    subject=selector("app=web"),
    egress=[
        {"toFQDNs": [{"matchName": "api.example.com"}, {"matchPattern": "*.example.com"}], "toPorts": ports("443/TCP")},
        {"toCIDR": ["203.0.113.0/24"]},
    ],
)
RESOLVED_AT_NS = 1_700_000_000_000_000_000


def answer(endpoint: int, name: str, *ips: str) -> RecordAnswers:
    """An endpoint was told these addresses."""
    return RecordAnswers(answers=(Answer(endpoint, name, ips, 30, "10.96.0.53", RESOLVED_AT_NS),))


NAMES: Final[tuple[Step, ...]] = (
    (
        "the node joins",
        JoinNode(name="n1", cluster="default", ipv4_pod_cidr="10.5.0.0/24", ipv6_pod_cidr="fd00:5::/112"),
    ),
    ("add web", pod("web", "k8s:app=web", ifindex=50)),
    ("add db", pod("db", "k8s:app=db", ifindex=51)),
    ("nobody selects the name yet", answer(1, "api.example.com.", "203.0.113.7", "198.51.100.7")),
    ("policies by names", ApplyPolicies(documents=(document(EXTERNAL),))),
    ("another name of the same address", answer(1, "www.example.com.", "198.51.100.7", "2001:db8::7")),
    ("another endpoint", answer(2, "www.example.com.", "198.51.100.7", "198.51.100.8")),
    ("the name expires", ExpireNames(names=(Ended(1, "www.example.com.", ("198.51.100.7", "2001:db8::7"), "ttl"),))),
    ("remove db", DeleteEndpoint(container_id="c-db", container_interface="eth0")),
)

STORIES: Final = {"shop": SHOP, "growing": GROWING, "dry-run": DRY_RUN, "services": SERVICES, "names": NAMES}


def labels(world, endpoint: int) -> tuple[str, ...]:
    """The labels that an endpoint has."""
    return world.endpoints[endpoint].labels.texts()
