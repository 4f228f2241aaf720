"""The filter flags of `hubble observe`: their names, what they select, and what a shell may complete."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

import click
from click.shell_completion import CompletionItem

from cplane.domain.identity import Reserved
from cplane.hubble.cli.options import Filter

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., object])

TRACE_POINTS: Final = (  # by the sub-type of a trace event
    *("to-endpoint", "to-proxy", "to-host", "to-stack", "to-overlay", "from-endpoint", "from-proxy", "from-host"),
    *("from-stack", "from-overlay", "from-network", "to-network", "from-crypto", "to-crypto"),
)
EVENT_TYPES: Final = {"capture": 3, "drop": 1, "l7": 129, "policy-verdict": 5, "trace": 4, "trace-sock": 7}
TRACE: Final = EVENT_TYPES["trace"]
VERDICTS: Final = ("FORWARDED", "DROPPED", "AUDIT", "REDIRECTED", "ERROR", "TRACED", "TRANSLATED")
IDENTITIES: Final = tuple(one.label_key for one in Reserved)
_PROTOCOLS: Final = ("icmp", "icmpv4", "icmpv6", "sctp", "tcp", "udp", "vrrp", "igmp", "dns", "http", "kafka")
_TYPES: Final = (*EVENT_TYPES, *(f"trace:{point}" for point in TRACE_POINTS))
_METHODS: Final = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
_POINTS: Final = ", ".join(TRACE_POINTS)


class Flag(NamedTuple):
    """A filter flag. `sole`: it takes no value."""

    name: str
    help: str
    short: str = ""
    sole: bool = False
    values: Sequence[str] = ()

    @property
    def shown(self) -> str:
        """What errors call it."""
        return f"{self.short}, --{self.name}" if self.short else f"--{self.name}"


def _sided(
    name: str, subject: str, *, short: str = "", sole: bool = False, values: Sequence[str] = ()
) -> tuple[Flag, ...]:
    """A flag about either end of a flow, and one for each end."""
    return (
        Flag(name, f"Flows from or to {subject}.", short, sole, values),
        Flag(f"from-{name}", f"Flows from {subject}.", "", sole, values),
        Flag(f"to-{name}", f"Flows to {subject}.", "", sole, values),
    )


FLAGS: Final = (
    Flag("not", "The next filter selects what is not to be shown.", sole=True),
    Flag("verdict", f"What became of the packet: {', '.join(VERDICTS)}.", values=VERDICTS),
    Flag("drop-reason-desc", "Why it was dropped, e.g. POLICY_DENIED."),
    Flag(
        "type",
        f"Kind of event, TYPE[:SUBTYPE]: {', '.join(EVENT_TYPES)}, or a number. Sub-types of trace: {_POINTS}; "
        "of drop: the number of the reason.",
        "-t",
        values=_TYPES,
    ),
    *_sided("pod", "pods [NAMESPACE/]PREFIX of a name; without a namespace it is default"),
    *_sided("namespace", "pods of a namespace", short="-n"),
    *_sided("all-namespaces", "pods of any namespace", short="-A", sole=True),
    *_sided("label", "endpoints with these labels, e.g. app=web,tier or reserved:world", short="-l"),
    *_sided("identity", "a security identity, by number or reserved name", values=IDENTITIES),
    *_sided("ip", "an address or a prefix"),
    *_sided("port", "a port"),
    *_sided("service", "services [NAMESPACE/]PREFIX of a name; without a namespace it is default"),
    *_sided("workload", "a workload, [KIND/]NAME"),
    *_sided("fqdn", "a name, e.g. *.cilium.io"),
    *_sided("cluster", "endpoints of a cluster"),
    Flag("protocol", "Protocol, e.g. udp or http.", values=_PROTOCOLS),
    Flag("tcp-flags", "TCP flags that are set, e.g. syn,ack."),
    Flag("traffic-direction", "ingress or egress, as the endpoint sees it.", values=("ingress", "egress")),
    Flag("ipv4", "IPv4 only.", "-4", sole=True),
    Flag("ipv6", "IPv6 only.", "-6", sole=True),
    Flag("ip-version", "v4, v6, or none for what is no IP packet.", values=("none", "v4", "v6")),
    Flag("snat-ip", "An address or a prefix that the source was translated to."),
    Flag("interface", "Name of the device where it was seen."),
    Flag("node-name", "Where it was seen: [CLUSTER/]NODE, with * for any characters."),
    Flag("node-label", "Labels of the node where it was seen."),
    Flag("uuid", "The one flow of this identifier."),
    Flag("encrypted", "Encrypted flows only.", sole=True),
    Flag("unencrypted", "Flows that are not encrypted only.", sole=True),
    Flag("http-status", "Status of an HTTP response, e.g. 404 or 5+."),
    Flag("http-method", "Method of an HTTP request.", values=_METHODS),
    Flag("http-path", "Path of an HTTP request, a regular expression."),
    Flag("http-url", "URL of an HTTP request, a regular expression."),
    Flag("http-header", "Header of an HTTP message, NAME:VALUE."),
    Flag("trace-id", "Trace of a request."),
    Flag("ip-trace-id", "Trace of a packet, a number."),
    Flag("cel-expression", "A CEL expression that is true of the flow."),
)
BY_NAME: Final = {flag.name: flag for flag in FLAGS}


def filter_options(command: AnyCommand) -> AnyCommand:
    """The command takes all filter flags; `options.filters_of` has what was given."""
    for flag in reversed(FLAGS):
        # the name for click: --node-name and --print-node-name are not to be taken for one another
        names = [*([flag.short] if flag.short else []), f"--{flag.name}", f"filter_{flag.name.replace('-', '_')}"]
        command = click.option(
            *names,
            cls=Filter,
            sole=flag.sole,
            help=flag.help,
            section="Filters; repeated ones are alternatives, different ones must all hold",
            shell_complete=complete(flag.values),
        )(command)
    return command


def complete(values: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """What completes an option that takes one of the values."""

    def matching(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(value) for value in values if value.startswith(incomplete)]

    return matching
