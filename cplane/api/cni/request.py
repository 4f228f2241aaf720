"""What a runtime asks for, read out of environment and network configuration."""

from dataclasses import dataclass
from ipaddress import ip_interface
from typing import Final

import msgspec

from cplane.api.cni import wire
from cplane.api.cni.wire import CniError
from cplane.domain import labels as names
from cplane.domain.labels import BadLabel, Label, LabelSet
from cplane.domain.policy.l4 import PORT_NAME_MAX, is_port_name
from cplane.domain.ports import NamedPort, named_port_texts, parse_named_ports
from datapath.netlink.attachment import Attachment

DEFAULT_NAMESPACE: Final = "default"
DEFAULT_SERVICE_ACCOUNT: Final = "default"
DEFAULT_MTU: Final = 1500
_POD_NAME_CHARS: Final = 12  # of a container id, where the runtime names no pod; what `podman ps` shows
_NAMESPACE_NAME: Final = names.NAMESPACE_LABELS_PREFIX + "kubernetes.io/metadata.name"  # Kubernetes sets it on each
_SOURCES_REFUSED: Final = frozenset({names.RESERVED, names.CIDR, names.ANY, "fqdn"})  # say what cplane itself knows
_KEYS_REFUSED: Final = (names.NAMESPACE_KEY, "io.cilium.k8s.")

_ARGS_KNOWN: Final = frozenset(
    {
        *("IgnoreUnknown", "IP", "CPLANE_LABELS"),
        *("K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"),
    }
)


class OurArgs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The section `args.cplane`; it comes before what CNI_ARGS says."""

    labels: dict[str, str] = {}  # msgspec copies it
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    service_account: str = ""
    namespace_labels: dict[str, str] = {}
    named_ports: dict[str, str] = {}


class ConventionArgs(msgspec.Struct, frozen=True, kw_only=True):
    """The section `args.cni` of CNI's conventions, as far as it is ours to follow."""

    ips: tuple[str, ...] = ()


class Args(msgspec.Struct, frozen=True, kw_only=True):
    """The sections of `args`; others are others' business."""

    cplane: OurArgs = OurArgs()
    cni: ConventionArgs = ConventionArgs()


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What runtimes fill in for the capabilities that a configuration declares."""

    ips: tuple[str, ...] = ()


class Dns(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Name servers for the container, handed through to the result."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Interface(msgspec.Struct, frozen=True, kw_only=True):
    """An interface of an earlier result."""

    name: str = ""
    mac: str = ""
    sandbox: str = ""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An address of an earlier result; `interface` is an index into its interfaces."""

    address: str
    interface: int | None = None


class RouteTo(msgspec.Struct, frozen=True, kw_only=True):
    """A route of an earlier result."""

    dst: str
    gw: str = ""


class PreviousResult(msgspec.Struct, frozen=True, kw_only=True):
    """What ADD once answered."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Address, ...] = ()
    routes: tuple[RouteTo, ...] = ()


class ValidAttachment(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment that a runtime still knows."""

    container: str = msgspec.field(name="containerID")
    interface: str = msgspec.field(name="ifname")


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A network configuration that `wire.check` has passed."""

    version: str = msgspec.field(name="cniVersion")
    name: str
    mtu: int = DEFAULT_MTU
    args: Args = Args()
    runtime: RuntimeConfig = msgspec.field(name="runtimeConfig", default=RuntimeConfig())
    dns: Dns = Dns()
    previous: PreviousResult | None = msgspec.field(name="prevResult", default=None)
    valid: tuple[ValidAttachment, ...] = msgspec.field(name="cni.dev/valid-attachments", default=())
    valid_too: tuple[ValidAttachment, ...] = msgspec.field(name="cni.dev/attachments", default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of the plugin. `container` and `interface` are empty for GC and STATUS, `netns` may be for DEL."""

    verb: str
    container: str
    interface: str
    netns: str
    arguments: str
    config: NetworkConfig

    @property
    def attachment(self) -> Attachment:
        """What is added, checked or deleted."""
        return Attachment(self.config.name, self.container, self.interface)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """Who an interface is for. `labels` are all of them; requested addresses are empty where the agent chooses.

    `named_ports` are `name=number/protocol`, sorted.
    """

    namespace: str
    name: str
    uid: str
    labels: tuple[str, ...]
    named_ports: tuple[str, ...]
    requested_ipv4: str
    requested_ipv6: str


def read(head: object, body: object) -> Request:
    """The request in its two lines, decoded: verb with environment, and network configuration. Raises CniError."""
    if not isinstance(head, dict):
        raise CniError(wire.DECODE_FAILURE, "the request is not a JSON object")
    verb, environment = head.get("verb"), head.get("env")
    if not isinstance(verb, str) or not isinstance(environment, dict):
        raise CniError(wire.DECODE_FAILURE, "the request has no verb or no environment")
    if not all(isinstance(value, str) for value in environment.values()):
        raise CniError(wire.DECODE_FAILURE, "an environment variable is not text")
    checked = wire.check(verb, environment, body)
    try:
        config = msgspec.convert(_filled(verb, checked), NetworkConfig)
    except msgspec.ValidationError as error:
        raise CniError(wire.INVALID_CONFIG, f"the network configuration is wrong: {error}") from error
    return Request(
        verb=verb,
        container=environment.get("CNI_CONTAINERID", ""),
        interface=environment.get("CNI_IFNAME", ""),
        netns=environment.get("CNI_NETNS", ""),
        arguments=environment.get("CNI_ARGS", ""),
        config=config,
    )


def _filled(verb: str, config: dict[str, object]) -> dict[str, object]:
    """The fields that say something. Go, and so libcni, writes null for what nothing was ever put into.

    What ADD once answered is looked at by CHECK alone: however others have written it, a DEL is not to fail for it.
    """
    given = {key: value for key, value in config.items() if value is not None}
    previous = given.pop("prevResult", None)
    return given if verb != "CHECK" else {**given, "prevResult": _without_null(previous)}


def _without_null(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    return [_without_null(one) for one in value] if isinstance(value, list) else value


def pod_of(request: Request, cluster: str) -> Pod:
    """Who the request is for, with the labels that follow from namespace, account and cluster. Raises CniError."""
    arguments = _arguments(request.arguments)
    ours = request.config.args.cplane
    namespace = ours.namespace or arguments.get("K8S_POD_NAMESPACE") or DEFAULT_NAMESPACE
    given = _given_labels(arguments, ours)
    implied = {
        names.NAMESPACE_KEY: namespace,
        names.CLUSTER_KEY: cluster,
        names.SERVICE_ACCOUNT_KEY: ours.service_account or DEFAULT_SERVICE_ACCOUNT,
        _NAMESPACE_NAME: namespace,
    }
    for key, value in ours.namespace_labels.items():
        implied[names.NAMESPACE_LABELS_PREFIX + key] = value
    implicit = [_label("args.cplane.namespaceLabels", key, value) for key, value in implied.items()]
    ipv4, ipv6 = _requested(request, arguments)
    return Pod(
        namespace=namespace,
        name=ours.pod or arguments.get("K8S_POD_NAME") or request.container[:_POD_NAME_CHARS],
        uid=ours.pod_uid or arguments.get("K8S_POD_UID", ""),
        labels=LabelSet((*given, *implicit)).texts(),
        named_ports=_named_ports(ours.named_ports),
        requested_ipv4=ipv4,
        requested_ipv6=ipv6,
    )


def _arguments(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(";") if pair]
    broken = [key for key, equals, _ in pairs if not equals]
    if broken:
        raise CniError(wire.INVALID_ENVIRONMENT, f"CNI_ARGS: {broken[0]!r} is not of the form KEY=VALUE")
    found = {key: value for key, _, value in pairs}
    unknown = sorted(found.keys() - _ARGS_KNOWN)
    if unknown and found.get("IgnoreUnknown", "").lower() not in {"1", "true"}:
        reason = f"CNI_ARGS: {', '.join(unknown)} is not known"
        raise CniError(wire.INVALID_ENVIRONMENT, reason, "add IgnoreUnknown=1 if that is fine")
    return found


def _given_labels(arguments: dict[str, str], ours: OurArgs) -> list[Label]:
    pairs = [text.partition("=") for text in arguments.get("CPLANE_LABELS", "").split(",") if text]
    given = [_given("CNI_ARGS: CPLANE_LABELS", key, value) for key, _, value in pairs]
    return given + [_given("args.cplane.labels", key, value) for key, value in ours.labels.items()]


def _given(where: str, key: str, value: str) -> Label:
    label = _label(where, key, value)
    if label.source in _SOURCES_REFUSED:
        raise CniError(wire.INVALID_CONFIG, f"{where}: {key!r}: the source {label.source!r} is for cplane to give")
    if label.key.startswith(_KEYS_REFUSED):
        reason = f"{where}: {key!r} follows from namespace, serviceAccount and namespaceLabels of args.cplane"
        raise CniError(wire.INVALID_CONFIG, reason)
    return label


def _label(where: str, key: str, value: str) -> Label:
    if "=" in key:
        raise CniError(wire.INVALID_CONFIG, f"{where}: the key {key!r} contains '='")
    try:
        return Label.parse(f"{key}={value}", names.K8S)
    except BadLabel as bad:
        raise CniError(wire.INVALID_CONFIG, f"{where}: {bad}") from bad


def _named_ports(given: dict[str, str]) -> tuple[str, ...]:
    """What policies call ports by, from `{"http": "8080/TCP"}`; without a protocol it is TCP."""
    found: dict[NamedPort, tuple[str, int]] = {}
    for name, port in given.items():
        where = f"args.cplane.namedPorts: {name!r}"
        if not is_port_name(name):
            details = f"at most {PORT_NAME_MAX} letters, digits and single inner '-' with a letter among them"
            raise CniError(wire.INVALID_CONFIG, f"{where} is no name of a port", details)
        try:
            ((named, number),) = parse_named_ports((f"{name}={port}",))
        except ValueError as error:
            reason = f"{where}: {port!r} is not number/protocol with one of TCP, UDP and SCTP, for example 8080/TCP"
            raise CniError(wire.INVALID_CONFIG, reason) from error
        if named in found:
            reason = f"{where}: {found[named][0]!r} is the same name, and has another port"
            raise CniError(wire.INVALID_CONFIG, reason)
        found[named] = (name, number)
    return named_port_texts(frozenset((named, number) for named, (_, number) in found.items()))


def _requested(request: Request, arguments: dict[str, str]) -> tuple[str, str]:
    """The IPv4 and the IPv6 address that were asked for, in the order of CNI's conventions."""
    config = request.config
    ips = config.runtime.ips or config.args.cni.ips or tuple(filter(None, [arguments.get("IP")]))
    chosen = {4: "", 6: ""}
    for text in ips:
        try:
            address = ip_interface(text).ip
        except ValueError as error:
            raise CniError(wire.INVALID_CONFIG, f"requested address {text!r} is not an IP address") from error
        if chosen[address.version]:
            reason = f"requested addresses {', '.join(ips)}: one of each family is all that a pod can have"
            raise CniError(wire.INVALID_CONFIG, reason)
        chosen[address.version] = str(address)
    return chosen[4], chosen[6]
