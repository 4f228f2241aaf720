"""What an agent can be told: frozen, complete, and checked when it is made.

Every field says what it means in `metadata["help"]`; `cplane.config.load` makes file keys, variables and
flags of them. Messages start with the key.
"""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Network, IPv6Network, NetmaskValueError, ip_address, ip_network
from typing import Final, Literal, NamedTuple

from cplane.config.bpf import BpfConfig
from cplane.config.dns import DnsConfig
from cplane.config.metrics import BadMetric, WantedMetric, parse_metrics
from cplane.config.proxy import ProxyConfig
from cplane.config.redaction import RedactionConfig
from cplane.config.tls import TlsFiles, tls_faults, tls_help
from cplane.domain.service import MAGLEV_SIZES, ServiceOptions
from cplane.errors import Rejected

_NODE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_CLUSTER_NAME: Final = re.compile(r"([a-z0-9][-a-z0-9]*)?[a-z0-9]")
_CLUSTER_NAME_MAX: Final = 32
_SOCKET_PATH_MAX: Final = 107 - len("/hubble.sock")
_DATABASES: Final = ("postgresql://", "postgres://")
_PASSWORD: Final = re.compile(r"(?<=[^:/]):[^@/?]*(?=@)|(?<=[?&])password=[^&]*&?")
_DEVICE_BYTES: Final = 16  # IFNAMSIZ, with a zero at the end
_POD_BITS_MAX: Final = {4: 30, 6: 126}  # longer prefixes have no address for a pod beside the router's


class Fault(NamedTuple):
    """A key and what is wrong with its value."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


class BadConfig(Rejected):
    """The configuration cannot be used; `errors` has everything that is wrong with it."""

    code = "config.bad"

    def __init__(self, errors: tuple[Fault, ...]) -> None:
        self.errors = errors

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


@dataclass(frozen=True, slots=True, kw_only=True)
class HubbleConfig(RedactionConfig):
    """Observation: how many flows are kept, what is recorded, and who may ask over TCP."""

    ring_records: int = field(
        default=1 << 20, metadata={"help": "flows that are kept, a power of two from 1024 to 16777216"}
    )
    ring_path: str | None = field(
        default=None,
        metadata={
            "help": "file that the flows are in, 115 bytes for each, so that they survive a restart; empty: memory "
            "(default: <state_dir>/flows.ring)"
        },
    )
    archive_path: str = field(
        default="",
        metadata={"help": "folder of Parquet files with older flows (needs the extra `archive`); empty: none are kept"},
    )
    archive_max_mb: int = field(
        default=1024, metadata={"help": "megabytes of files in hubble.archive_path; the oldest go beyond that"}
    )
    archive_max_hours: int = field(
        default=168, metadata={"help": "hours after which a file in hubble.archive_path goes; 0: never"}
    )
    monitor: Literal["medium", "drops", "off"] = field(
        default="medium",
        metadata={
            "help": "what the kernel records: new connections, verdicts and what became of connections to services, "
            "drops only, or nothing"
        },
    )
    listen_tcp: str = field(
        default="",
        metadata={
            "help": "host:port of the observer, beside its unix socket; without a host every address "
            "with TLS, and loopback in plaintext; empty: off"
        },
    )
    tls_cert: str = field(default="", metadata={"help": "PEM file with the observer's certificate"})
    tls_key: str = field(default="", metadata={"help": "PEM file with its key"})
    tls_client_ca: str = field(
        default="",
        metadata={"help": "PEM file with the authority whose clients may connect; empty: any client"},
    )
    allow_plaintext_tcp: bool = field(
        default=False,
        metadata={"help": "serve hubble.listen_tcp without TLS: who reaches it, reads"},
    )

    metrics: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "metrics of flows, in upstream's words, such as drop:sourceContext=pod;destinationContext=pod|dns: "
            "dns, drop, flow, flows-to-world, http, httpV2, icmp, kafka, policy, port-distribution, tcp"
        },
    )
    metrics_listen: str = field(
        default="", metadata={"help": "host:port of /metrics for them, without a host every address; empty: off"}
    )
    metrics_server_enable_tls: bool = field(default=False, metadata=tls_help("enable_tls", "hubble.metrics_listen"))
    metrics_server_tls_cert_file: str = field(default="", metadata=tls_help("tls_cert_file", "hubble.metrics_listen"))
    metrics_server_tls_key_file: str = field(default="", metadata=tls_help("tls_key_file", "hubble.metrics_listen"))
    metrics_server_tls_client_ca_files: tuple[str, ...] = field(
        default=(), metadata=tls_help("tls_client_ca_files", "hubble.metrics_listen")
    )
    metrics_sets_max: int = field(
        default=10_000, metadata={"help": "label sets that one metric of flows may have, 100 to 1000000"}
    )
    export_file_path: str = field(
        default="", metadata={"help": "file that flows are appended to as lines of JSON; empty: none"}
    )
    export_file_max_size_mb: int = field(
        default=10, metadata={"help": "megabytes at which the file is put aside; 0: never"}
    )
    export_file_max_backups: int = field(
        default=5, metadata={"help": "files put aside that are kept, the newest; 0: all"}
    )
    export_file_compress: bool = field(default=False, metadata={"help": "compress files that are put aside"})
    export_allowlist: str = field(
        default="", metadata={"help": "flows that are exported: filters as JSON, one after the other; empty: all"}
    )
    export_denylist: str = field(default="", metadata={"help": "flows that are not exported, likewise"})
    export_fieldmask: tuple[str, ...] = field(
        default=(), metadata={"help": "fields of a flow that are exported; none given: all"}
    )
    flowlogs_config_path: str = field(
        default="",
        metadata={"help": "YAML file with further exports (flowLogs), read again when it changes; empty: none"},
    )

    @property
    def tcp(self) -> tuple[str, int] | None:
        """Host and port to listen on; None: nowhere. An empty host is every address, with TLS only."""
        if not self.listen_tcp:
            return None
        host, port = host_port(self.listen_tcp)
        return (host or ("" if self.tls_cert else "127.0.0.1"), port)

    def faults(self) -> Iterator[Fault]:
        """Everything that is wrong here, keys relative to this section."""
        ring = self.ring_records
        if not 1024 <= ring <= 1 << 24 or ring & (ring - 1):
            yield Fault("ring_records", f"{ring} is not a power of two from 1024 to 16777216")
        for key in ("ring_path", "archive_path"):
            path = getattr(self, key)
            if path and not path.startswith("/"):
                yield Fault(key, f"{path!r} is not an absolute path")
        if self.archive_max_mb < 1:
            yield Fault("archive_max_mb", "0 leaves no room; to keep no older flows, leave out hubble.archive_path")
        yield from (Fault(key, message) for key, message in self.redaction_faults())
        if self.listen_tcp:
            yield from _host_port("listen_tcp", self.listen_tcp)
            if not self.tls_cert and not self.allow_plaintext_tcp:
                yield Fault(
                    "listen_tcp",
                    "needs hubble.tls_cert and hubble.tls_key, or hubble.allow_plaintext_tcp: true",
                )
        if bool(self.tls_cert) != bool(self.tls_key):
            absent = "tls_key" if self.tls_cert else "tls_cert"
            yield Fault(absent, "a certificate and its key are given together")
        if self.tls_client_ca and not self.tls_cert:
            yield Fault("tls_client_ca", "clients show certificates over TLS only: give hubble.tls_cert too")
        yield from self._metrics_faults()
        yield from self._export_faults()

    @property
    def metrics_tls(self) -> TlsFiles | None:
        """The files of hubble.metrics_listen; None: it is plaintext."""
        return self._metrics_files if self.metrics_server_enable_tls else None

    @property
    def _metrics_files(self) -> TlsFiles:
        return TlsFiles(
            self.metrics_server_tls_cert_file, self.metrics_server_tls_key_file, self.metrics_server_tls_client_ca_files
        )

    @property
    def wanted_metrics(self) -> tuple[WantedMetric, ...]:
        """The metrics, understood."""
        return parse_metrics(self.metrics)

    def _metrics_faults(self) -> Iterator[Fault]:
        try:
            parse_metrics(self.metrics)
        except BadMetric as bad:
            yield Fault("metrics", str(bad))
        if self.metrics_listen:
            yield from _host_port("metrics_listen", self.metrics_listen)
        elif self.metrics:
            yield Fault("metrics", "nobody could read them: give hubble.metrics_listen too, such as :9965")
        yield from map(
            Fault._make,
            tls_faults(
                "metrics_server",
                "hubble.metrics_listen",
                self.metrics_listen,
                on=self.metrics_server_enable_tls,
                files=self._metrics_files,
            ),
        )
        if not 100 <= self.metrics_sets_max <= 1_000_000:
            yield Fault("metrics_sets_max", f"{self.metrics_sets_max} is not from 100 to 1000000")

    def _export_faults(self) -> Iterator[Fault]:
        for key in ("export_file_path", "flowlogs_config_path"):
            path = getattr(self, key)
            if path and not path.startswith("/"):
                yield Fault(key, f"{path!r} is not an absolute path")
        for key, most in (("export_file_max_size_mb", 1_000_000), ("export_file_max_backups", 10_000)):
            if getattr(self, key) > most:
                yield Fault(key, f"{getattr(self, key)} is more than {most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LbConfig:
    """How services are served. None is for what the log has: given, it is an event of the agent at its start."""

    cgroup: str = field(
        default="",
        metadata={
            "help": "folder of a cgroup2 whose processes reach services at the socket, or auto for all of the machine; "
            "empty: none"
        },
    )
    hostns_only: bool = field(
        default=False, metadata={"help": "serve sockets of the node's own network namespace only"}
    )
    devices: tuple[str, ...] = field(
        default=(), metadata={"help": "interfaces by which clients outside reach services; none given: no such clients"}
    )
    acceleration: Literal["disabled", "best-effort", "native"] = field(
        default="disabled",
        metadata={
            "help": "XDP on those, for what goes on to backends of other nodes and back: on none, on all whose drivers "
            "can, or on all, without which the agent does not start"
        },
    )
    algorithm: Literal["random", "maglev"] | None = field(
        default=None,
        metadata={"help": "how a backend is chosen for clients outside (default: the log's, first random)"},
    )
    forwarding: Literal["snat", "dsr", "hybrid"] | None = field(
        default=None,
        metadata={
            "help": "whether clients outside are hidden from backends of other nodes (snat), or answered by these "
            "themselves (dsr), or that for TCP only (hybrid) (default: the log's, at first snat)"
        },
    )
    dsr_dispatch: Literal["opt", "ipip", "geneve"] = field(
        default="opt",
        metadata={
            "help": "how other nodes are told whom they answer for, the same on all nodes: by an option of the first "
            "packet, by packets in packets, or by Geneve packets, whose option says it"
        },
    )
    maglev_size: int | None = field(
        default=None,
        metadata={
            "help": f"entries of a Maglev table: {', '.join(map(str, MAGLEV_SIZES))} (default: the log's, 16381)"
        },
    )
    maglev_seed: str | None = field(
        default=None, metadata={"help": "base64 of 12 bytes, the same on all nodes (default: the log's, Cilium's)"}
    )
    external_cluster_ip: bool | None = field(
        default=None,
        metadata={"help": "cluster addresses are served to clients outside (default: the log's, first not)"},
    )
    health_interval_s: int = field(
        default=0,
        metadata={
            "help": "seconds between two tries to connect to each TCP backend, or to get the path that its service has "
            "for this, after three failures of which it gets no new connections; 0: none is tried"
        },
    )
    zone: str | None = field(
        default=None,
        metadata={"help": "this node's zone, for services that prefer backends of it (default: the log's)"},
    )

    def faults(self) -> Iterator[Fault]:
        """Everything that is wrong here, keys relative to this section."""
        if self.cgroup not in {"", "auto"} and not self.cgroup.startswith("/"):
            yield Fault("cgroup", f"{self.cgroup!r} is neither an absolute path nor auto")
        for one in self.devices:
            if not 0 < len(one.encode()) < _DEVICE_BYTES or "/" in one:
                yield Fault("devices", f"{one!r} is no name of an interface")
        yield from _one_of("acceleration", self.acceleration, ("disabled", "best-effort", "native"))
        if self.acceleration != "disabled" and not self.devices:
            yield Fault("acceleration", "there are no lb.devices")
        if self.algorithm is not None:
            yield from _one_of("algorithm", self.algorithm, ("random", "maglev"))
        if self.forwarding is not None:
            yield from _one_of("forwarding", self.forwarding, ("snat", "dsr", "hybrid"))
        yield from _one_of("dsr_dispatch", self.dsr_dispatch, ("opt", "ipip", "geneve"))
        given = ServiceOptions(
            maglev_size=self.maglev_size or ServiceOptions().maglev_size,
            maglev_seed=self.maglev_seed or ServiceOptions().maglev_seed,
        )
        if wrong := given.problem():
            yield Fault("maglev_size" if self.maglev_size not in {None, *MAGLEV_SIZES} else "maglev_seed", wrong)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """One agent. Raises BadConfig, with everything that is wrong, when it is made.

    None is for what the log has: given, it is an event of the agent at its start.
    """

    node_name: str = field(default="", metadata={"help": "this node's name (default: the host name)"})
    cluster_name: str = field(default="default", metadata={"help": "the cluster's name"})
    state_dir: str = field(default="/var/lib/cplane", metadata={"help": "folder of the log and of caches"})
    run_dir: str = field(default="/run/cplane", metadata={"help": "folder of the sockets"})
    bpf_root: str = field(default="/sys/fs/bpf/cplane", metadata={"help": "folder of pins, on a bpffs"})
    datapath: Literal["kernel", "memory"] = field(
        default="kernel", metadata={"help": "enforce in the kernel, or only compute (needs no privileges)"}
    )
    ipv4_pod_cidr: str = field(default="10.244.0.0/24", metadata={"help": "IPv4 addresses of pods; empty: no IPv4"})
    ipv6_pod_cidr: str = field(default="fd00:10:244::/64", metadata={"help": "IPv6 addresses of pods; empty: no IPv6"})
    policy_enforcement: Literal["default", "always", "never"] | None = field(
        default=None,
        metadata={
            "help": "which endpoints have default deny: those that a rule is about, all, or none, whom rules do not "
            "bind either; not given: as the log has it (`cplane config`), at first default"
        },
    )
    policy_audit_mode: bool | None = field(
        default=None,
        metadata={
            "help": "what policies would drop passes, with the verdict AUDIT; not given: as the log has it "
            "(`cplane config`), at first not"
        },
    )
    debug: bool = field(
        default=False,
        metadata={
            "help": "programs tell each of their steps, for `hubble observe debug-events`, which takes time from every "
            "packet; may be switched while the agent runs (`cplane config`)"
        },
    )
    log: str = field(
        default="",
        metadata={
            "help": "sqlite:///PATH, memory, or postgresql://USER@HOST/DATABASE, which nodes share, with passwords in "
            "~/.pgpass or PGPASSWORD (default: sqlite:///<state_dir>/log.db)"
        },
    )
    log_archive_after: int = field(
        default=0,
        metadata={
            "help": "events that stay in the log's file; older ones move into LOG.archive, compressed; 0: all stay"
        },
    )
    log_keep_days: int = field(
        default=0, metadata={"help": "days after which events in LOG.archive are dropped; 0: none are"}
    )
    log_level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata={"help": "what is worth a line on standard error"}
    )
    log_format: Literal["text", "json"] = field(default="text", metadata={"help": "how such a line looks"})
    metrics_listen: str = field(
        default="",
        metadata={"help": "host:port of the agent's own /metrics and /healthz, such as 127.0.0.1:9962; empty: off"},
    )
    prometheus_enable_tls: bool = field(default=False, metadata=tls_help("enable_tls", "metrics_listen"))
    prometheus_tls_cert_file: str = field(default="", metadata=tls_help("tls_cert_file", "metrics_listen"))
    prometheus_tls_key_file: str = field(default="", metadata=tls_help("tls_key_file", "metrics_listen"))
    prometheus_tls_client_ca_files: tuple[str, ...] = field(
        default=(), metadata=tls_help("tls_client_ca_files", "metrics_listen")
    )
    hubble: HubbleConfig = field(default_factory=HubbleConfig)
    lb: LbConfig = field(default_factory=LbConfig)
    bpf: BpfConfig = field(default_factory=BpfConfig)
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    dns: DnsConfig = field(default_factory=DnsConfig)

    def __post_init__(self) -> None:
        if not self.node_name:
            object.__setattr__(self, "node_name", socket.gethostname().lower())
        if not self.log:
            object.__setattr__(self, "log", f"sqlite:///{self.state_dir.rstrip('/')}/log.db")
        faults = tuple(self.faults())
        if faults:
            raise BadConfig(faults)

    @property
    def log_path(self) -> str:
        """The log's file; empty when it is kept in memory or in a database."""
        return self.log.removeprefix("sqlite:///") if self.log.startswith("sqlite:///") else ""

    @property
    def log_database(self) -> str:
        """The address of the database that has the log; empty when it is kept elsewhere."""
        return self.log if self.log.startswith(_DATABASES) else ""

    @property
    def log_location(self) -> str:
        """The log's file, or the address of its database; empty when it is kept in memory."""
        return self.log_path or self.log_database

    @property
    def history_dir(self) -> str:
        """The folder for what is worked out from a log that is in a database."""
        return f"{self.state_dir.rstrip('/')}/history"

    @property
    def log_shown(self) -> str:
        """Where the log is, for everybody to see."""
        return _PASSWORD.sub("", self.log) if self.log_database else self.log

    @property
    def ring_path(self) -> str:
        """The flows' file; empty when they are kept in memory."""
        given = self.hubble.ring_path
        return f"{self.state_dir.rstrip('/')}/flows.ring" if given is None else given

    @property
    def is_metered(self) -> bool:
        """Whether metrics are served or flows are exported."""
        given = self.hubble
        return bool(self.metrics_listen or given.metrics_listen or given.export_file_path or given.flowlogs_config_path)

    @property
    def metrics_tls(self) -> TlsFiles | None:
        """The files of metrics_listen; None: it is plaintext."""
        return self._prometheus_files if self.prometheus_enable_tls else None

    @property
    def _prometheus_files(self) -> TlsFiles:
        return TlsFiles(
            self.prometheus_tls_cert_file, self.prometheus_tls_key_file, self.prometheus_tls_client_ca_files
        )

    @property
    def admin_socket(self) -> str:
        """Path of the administration socket."""
        return f"{self.run_dir.rstrip('/')}/admin.sock"

    @property
    def hubble_socket(self) -> str:
        """Path of the observer's socket."""
        return f"{self.run_dir.rstrip('/')}/hubble.sock"

    @property
    def cni_socket(self) -> str:
        """Path of the CNI plugin's socket."""
        return f"{self.run_dir.rstrip('/')}/cni.sock"

    def faults(self) -> Iterator[Fault]:
        """Everything that is wrong."""
        if not _NODE_NAME.fullmatch(self.node_name):
            yield Fault("node_name", f"{self.node_name!r} is not a DNS name of lower-case letters, digits, - and .")
        if len(self.cluster_name) > _CLUSTER_NAME_MAX or not _CLUSTER_NAME.fullmatch(self.cluster_name):
            yield Fault(
                "cluster_name",
                f"{self.cluster_name!r} is not 1 to {_CLUSTER_NAME_MAX} lower-case letters, digits, inner -",
            )
        for key in ("state_dir", "run_dir", "bpf_root"):
            if not getattr(self, key).startswith("/"):
                yield Fault(key, f"{getattr(self, key)!r} is not an absolute path")
        if len(self.run_dir.encode()) > _SOCKET_PATH_MAX:
            yield Fault("run_dir", f"longer than {_SOCKET_PATH_MAX} bytes: a socket's path would not fit")
        yield from _one_of("datapath", self.datapath, ("kernel", "memory"))
        if self.policy_enforcement is not None:
            yield from _one_of("policy_enforcement", self.policy_enforcement, ("default", "always", "never"))
        yield from _one_of("log_level", self.log_level, ("debug", "info", "warning", "error"))
        yield from _one_of("log_format", self.log_format, ("text", "json"))
        yield from self._cidr_faults()
        derived = self.log_path.startswith(self.state_dir)  # then the folder is what is wrong
        is_file = self.log_path and (derived or self.log.startswith("sqlite:////"))
        if self.log != "memory" and not self.log_database and not is_file:
            yield Fault(
                "log",
                f"{self.log!r} is neither memory, sqlite:///PATH with an absolute path, nor "
                "postgresql://USER@HOST/DATABASE",
            )
        yield from self._retention_faults()
        if self.metrics_listen:
            yield from _host_port("metrics_listen", self.metrics_listen)
        yield from map(
            Fault._make,
            tls_faults(
                "prometheus",
                "metrics_listen",
                self.metrics_listen,
                on=self.prometheus_enable_tls,
                files=self._prometheus_files,
            ),
        )
        yield from _one_of("hubble.monitor", self.hubble.monitor, ("medium", "drops", "off"))
        yield from (Fault(f"hubble.{fault.key}", fault.message) for fault in self.hubble.faults())
        yield from (Fault(f"lb.{fault.key}", fault.message) for fault in self.lb.faults())
        yield from (Fault(f"bpf.{key}", message) for key, message in self.bpf.faults())
        yield from (Fault(f"proxy.{key}", message) for key, message in self.proxy.faults())
        yield from (Fault(f"dns.{key}", message) for key, message in self.dns.faults())

    def _retention_faults(self) -> Iterator[Fault]:
        for key in ("log_archive_after", "log_keep_days"):
            if getattr(self, key) < 0:
                yield Fault(key, f"{getattr(self, key)} is negative")
        if self.log_keep_days and not self.log_archive_after:
            yield Fault("log_keep_days", "only archived events are dropped: give log_archive_after too, such as 100000")
        if self.log_archive_after and (self.log == "memory" or self.log_database):
            place = "a database" if self.log_database else "memory"
            yield Fault("log_archive_after", f"only a log in a file has an archive, and this one is in {place}")

    def _cidr_faults(self) -> Iterator[Fault]:
        if not self.ipv4_pod_cidr and not self.ipv6_pod_cidr:
            yield Fault("ipv4_pod_cidr", "empty, as is ipv6_pod_cidr: pods need addresses of one family at least")
        if self.ipv4_pod_cidr:
            yield from _cidr("ipv4_pod_cidr", self.ipv4_pod_cidr, 4)
        if self.ipv6_pod_cidr:
            yield from _cidr("ipv6_pod_cidr", self.ipv6_pod_cidr, 6)


def host_port(text: str) -> tuple[str, int]:
    """Host (empty in `:9965`) and port of an address that has been checked."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> Iterator[Fault]:
    if value not in allowed:
        yield Fault(key, f"{value!r} is none of {', '.join(allowed)}")


def _cidr(key: str, text: str, family: int) -> Iterator[Fault]:
    try:
        prefix = (IPv4Network if family == 4 else IPv6Network)(text, strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        example = "10.244.0.0/24" if family == 4 else "fd00:10:244::/64"
        yield Fault(key, f"{text!r} is not an IPv{family} prefix such as {example}")
        return
    if "/" not in text:
        yield Fault(key, f"{text!r} has no length: write {text}/{24 if family == 4 else 64}")
        return
    if str(ip_address(text.partition("/")[0])) != str(prefix.network_address):
        yield Fault(key, f"{text!r} has bits set after its length: write {prefix}")
    if prefix.prefixlen > _POD_BITS_MAX[family]:
        yield Fault(key, f"/{prefix.prefixlen} leaves no address for a pod: /{_POD_BITS_MAX[family]} is the longest")
    if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local or prefix.is_unspecified:
        yield Fault(key, f"{prefix} is not unicast space that can be routed")
    if prefix.prefixlen == 0:
        yield Fault(key, "that is every address there is")


def _host_port(key: str, text: str) -> Iterator[Fault]:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        yield Fault(key, f"{text!r} is not host:port or :port")
    elif host not in {"", "localhost"}:
        try:
            ip_network(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            yield Fault(key, f"{host!r} is not an address; write an IPv6 one in brackets")
