"""Where settings come from, which wins, and how errors are told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from cplane.config.bpf import BpfConfig
from cplane.config.load import KEYS, agent_options, load
from cplane.config.model import AgentConfig, BadConfig, HubbleConfig, LbConfig
from cplane.config.tls import TlsFiles
from cplane.domain.redaction import Redaction


def told(
    *,
    file: str | None = None,
    folder: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    path = None
    if file is not None:
        assert folder is not None
        path = str(folder / "c.yaml")
        Path(path).write_text(file)
    with pytest.raises(BadConfig) as bad:
        load(path, {"node_name": "n", **(flags or {})}, environment or {})
    return [str(one).replace(f" ({path})", "") for one in bad.value.errors]


def test_nothing_said_means_the_defaults():
    config = load(None, {"node_name": "n1"}, {})
    assert config == AgentConfig(node_name="n1")
    assert config.log == "sqlite:////var/lib/cplane/log.db"
    assert config.log_path == "/var/lib/cplane/log.db"
    assert (config.admin_socket, config.hubble_socket, config.cni_socket) == (
        "/run/cplane/admin.sock",
        "/run/cplane/hubble.sock",
        "/run/cplane/cni.sock",
    )


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("node_name: file\ncluster_name: file\nstate_dir: /file\nhubble: {ring_records: 1024}\n")
    environment = {"CPLANE_NODE_NAME": "environment", "CPLANE_CLUSTER_NAME": "environment", "HOME": "/x"}
    config = load(str(path), {"node_name": "flag", "cluster_name": None}, environment)
    assert (config.node_name, config.cluster_name, config.state_dir) == ("flag", "environment", "/file")
    assert config.log == "sqlite:////file/log.db"
    assert config.hubble.ring_records == 1024


def test_every_section_may_stand_in_the_file(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("lb: {cgroup: auto}\nbpf:\n  map_dynamic_size_ratio: 0\n  ct_max: 4096\n")
    config = load(str(path), {"node_name": "n"}, {"CPLANE_BPF_LB_MAP_MAX": "2048"})
    assert config.lb.cgroup == "auto"
    assert config.bpf == BpfConfig(map_dynamic_size_ratio=0.0, ct_max=4096, lb_map_max=2048)
    flags = {"node_name": "n", "bpf_map_dynamic_size_ratio": "0.01"}
    assert load(None, flags, {}).bpf.map_dynamic_size_ratio == 0.01


def test_sizes_of_tables_have_bounds():
    flags = {"bpf_map_dynamic_size_ratio": "0.6", "bpf_ct_max": "1023", "bpf_lb_map_max": "16777217"}
    assert told(flags=flags) == [
        "bpf.map_dynamic_size_ratio: 0.6 is not from 0 to 0.5",
        "bpf.ct_max: 1023 is neither 0 nor from 1024 to 16777216",
        "bpf.lb_map_max: 16777217 is neither 0 nor from 1024 to 16777216",
    ]
    wrong = told(flags={"bpf_map_dynamic_size_ratio": "a lot"})
    assert wrong == ["bpf.map_dynamic_size_ratio: a number is wanted, not 'a lot' (--bpf-map-dynamic-size-ratio)"]


def test_a_node_without_a_name_has_the_hosts_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Host-1")
    assert load(None, {}, {}).node_name == "host-1"


def test_an_empty_file_says_nothing(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("# nothing yet\n")
    assert load(str(path), {"node_name": "n"}, {}) == AgentConfig(node_name="n")


def test_what_the_log_has_is_left_to_it_unless_it_is_given(tmp_path: Path):
    nothing = load(None, {"node_name": "n", "policy_enforcement": None, "policy_audit_mode": None}, {})
    assert (nothing.policy_enforcement, nothing.policy_audit_mode) == (None, None)
    path = tmp_path / "c.yaml"
    path.write_text("policy_enforcement: never\npolicy_audit_mode: true\n")
    filed = load(str(path), {"node_name": "n", "policy_enforcement": "always"}, {})
    assert (filed.policy_enforcement, filed.policy_audit_mode) == ("always", True)
    told = load(str(path), {"node_name": "n"}, {"CPLANE_POLICY_AUDIT_MODE": "off"})
    assert (told.policy_enforcement, told.policy_audit_mode) == ("never", False)


def test_all_errors_of_all_sources_are_told_at_once(tmp_path: Path):
    assert told(
        folder=tmp_path,
        file="clustername: x\nhubble: {ring_record: 5, allow_plaintext_tcp: 1}\nbpf_root: 3\nlog_level: loud\n"
        "policy_enforcement: some\npolicy_audit_mode: null\n",
        environment={"CPLANE_HUBBLE_RING_RECORDS": "many", "CPLANE_NODENAME": "x"},
        flags={"ipv4_pod_cidr": "10.0.0.1/24"},
    ) == [
        "clustername: unknown key; did you mean cluster_name?",
        "hubble.ring_record: unknown key; did you mean hubble.ring_records?",
        "hubble.allow_plaintext_tcp: true or false is wanted, not 1",
        "bpf_root: text is wanted, not 3",
        "policy_audit_mode: true or false is wanted, not None",
        "hubble.ring_records: a whole number is wanted, not 'many' (CPLANE_HUBBLE_RING_RECORDS)",
        "CPLANE_NODENAME: unknown variable; did you mean CPLANE_NODE_NAME?",
        "policy_enforcement: 'some' is none of default, always, never",
        "log_level: 'loud' is none of debug, info, warning, error",
        "ipv4_pod_cidr: '10.0.0.1/24' has bits set after its length: write 10.0.0.0/24",
    ]


@pytest.mark.parametrize(
    ("file", "error"),
    [
        ("a: [", "line 2 column 1: while parsing a flow node: did not find expected node content"),
        ("node_name: a\nnode_name: b", "node_name: the key stands there twice"),
        ("- a", "is not a mapping of keys to values"),
        ("a: 1\n---\nb: 1", "has 2 documents; one is read"),
        ("x: 1", "x: unknown key; known are bpf.ct_max, bpf.lb_map_max, "),
        ("hubble: 3", "hubble: unknown key"),
        ("hubble: {tls: {cert: x}}", "hubble.tls: unknown key"),
        ("hubble: {ring_records: true}", "hubble.ring_records: a whole number is wanted, not True"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(tmp_path: Path, file: str, error: str):
    assert error in told(folder=tmp_path, file=file)[0]


def test_a_file_that_does_not_exist_is_told():
    with pytest.raises(BadConfig, match="config: cannot read /no/such: No such file"):
        load("/no/such", {"node_name": "n"}, {})


def test_variables_of_kubernetes_services_and_other_programs_are_left_alone():
    load(
        None,
        {"node_name": "n"},
        {
            "CPLANE_AGENT_SERVICE_HOST": "10.0.0.1",
            "CPLANE_PORT_80_TCP": "x",
            "CPLANE_SERVER": "x",
            "CPLANE_OUTPUT": "json",
            "CPLANE_CNI_SOCKET": "x",
        },
    )


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"node_name": "A_b"}, "node_name: 'A_b' is not a DNS name of lower-case letters, digits, - and ."),
        ({"node_name": "-a"}, "node_name: '-a' is not a DNS name of lower-case letters, digits, - and ."),
        (
            {"cluster_name": "a" * 33},
            f"cluster_name: '{'a' * 33}' is not 1 to 32 lower-case letters, digits, inner -",
        ),
        ({"cluster_name": ""}, "cluster_name: '' is not 1 to 32 lower-case letters, digits, inner -"),
        ({"state_dir": "x"}, "state_dir: 'x' is not an absolute path"),
        ({"run_dir": "/" + "x" * 96}, "run_dir: longer than 95 bytes: a socket's path would not fit"),
        ({"datapath": "cloud"}, "datapath: 'cloud' is none of kernel, memory"),
        ({"log_format": "xml"}, "log_format: 'xml' is none of text, json"),
        (
            {"log": "mysql://x"},
            "log: 'mysql://x' is neither memory, sqlite:///PATH with an absolute path, nor postgresql://USER@HOST/DATABASE",
        ),
        (
            {"log": "sqlite:///x"},
            "log: 'sqlite:///x' is neither memory, sqlite:///PATH with an absolute path, nor postgresql://USER@HOST/DATABASE",
        ),
        *(
            (
                {"log": log, "log_archive_after": 5},
                f"log_archive_after: only a log in a file has an archive, and this one is in {place}",
            )
            for log, place in (("memory", "memory"), ("postgresql://u@h/d", "a database"))
        ),
        (
            {"ipv4_pod_cidr": "", "ipv6_pod_cidr": ""},
            "ipv4_pod_cidr: empty, as is ipv6_pod_cidr: pods need addresses of one family at least",
        ),
        ({"ipv4_pod_cidr": "10.0.0.0"}, "ipv4_pod_cidr: '10.0.0.0' has no length: write 10.0.0.0/24"),
        (
            {"ipv4_pod_cidr": "fd00::/64"},
            "ipv4_pod_cidr: 'fd00::/64' is not an IPv4 prefix such as 10.244.0.0/24",
        ),
        (
            {"ipv4_pod_cidr": "10.0.0.0/31"},
            "ipv4_pod_cidr: /31 leaves no address for a pod: /30 is the longest",
        ),
        (
            {"ipv4_pod_cidr": "127.0.0.0/8"},
            "ipv4_pod_cidr: 127.0.0.0/8 is not unicast space that can be routed",
        ),
        ({"ipv4_pod_cidr": "0.0.0.0/0"}, "ipv4_pod_cidr: that is every address there is"),
        ({"ipv6_pod_cidr": "fe80::/64"}, "ipv6_pod_cidr: fe80::/64 is not unicast space that can be routed"),
        (
            {"ipv6_pod_cidr": "fd00::1/64"},
            "ipv6_pod_cidr: 'fd00::1/64' has bits set after its length: write fd00::/64",
        ),
    ],
)
def test_every_value_is_checked_and_the_message_starts_with_its_key(values: dict[str, Any], error: str):
    with pytest.raises(BadConfig) as bad:
        AgentConfig(**{"node_name": "n", **values})
    assert str(bad.value) == error


def test_what_flows_keep_secret_is_off_unless_it_is_asked_for():
    given = {"redact_http_urlquery": True, "redact_kafka_apikey": True}
    assert HubbleConfig(**given).redaction.is_nothing
    assert HubbleConfig(redact_enabled=True).redaction == Redaction(headers=True, userinfo=True)
    all_of_it = HubbleConfig(redact_enabled=True, redact_http_headers_deny=("X-Token",), **given).redaction
    assert all_of_it == Redaction(True, frozenset(), frozenset({"x-token"}), True, True, True)


@pytest.mark.parametrize(("given", "path"), [(None, "/s/flows.ring"), ("", ""), ("/elsewhere/ring", "/elsewhere/ring")])
def test_flows_are_in_the_state_folder_unless_something_else_is_said(given: str | None, path: str):
    assert AgentConfig(node_name="n", state_dir="/s/", hubble=HubbleConfig(ring_path=given)).ring_path == path


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"ring_records": 1000}, "hubble.ring_records: 1000 is not a power of two from 1024 to 16777216"),
        ({"ring_records": 0}, "hubble.ring_records: 0 is not a power of two from 1024 to 16777216"),
        ({"ring_path": "flows"}, "hubble.ring_path: 'flows' is not an absolute path"),
        (
            {"redact_http_headers_allow": ("a",), "redact_http_headers_deny": ("b",)},
            (
                "hubble.redact_http_headers_deny: give either these, or hubble.redact_http_headers_allow: "
                "what becomes of others is not clear with both"
            ),
        ),
        ({"archive_path": "old"}, "hubble.archive_path: 'old' is not an absolute path"),
        (
            {"archive_max_mb": 0},
            "hubble.archive_max_mb: 0 leaves no room; to keep no older flows, leave out hubble.archive_path",
        ),
        ({"monitor": "loud"}, "hubble.monitor: 'loud' is none of medium, drops, off"),
        (
            {"listen_tcp": ":4244"},
            "hubble.listen_tcp: needs hubble.tls_cert and hubble.tls_key, or hubble.allow_plaintext_tcp: true",
        ),
        (
            {"listen_tcp": "x", "allow_plaintext_tcp": True},
            "hubble.listen_tcp: 'x' is not host:port or :port",
        ),
        (
            {"listen_tcp": "h:1", "allow_plaintext_tcp": True},
            "hubble.listen_tcp: 'h' is not an address; write an IPv6 one in brackets",
        ),
        ({"tls_cert": "x"}, "hubble.tls_key: a certificate and its key are given together"),
        (
            {"tls_client_ca": "x"},
            "hubble.tls_client_ca: clients show certificates over TLS only: give hubble.tls_cert too",
        ),
    ],
)
def test_the_hubble_section_is_checked_too(values: dict[str, Any], error: str):
    with pytest.raises(BadConfig) as bad:
        AgentConfig(node_name="n", hubble=HubbleConfig(**values))
    assert str(bad.value) == error


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"devices": ("eth0/1",)}, "lb.devices: 'eth0/1' is no name of an interface"),
        ({"devices": ("x" * 16,)}, f"lb.devices: '{'x' * 16}' is no name of an interface"),
        ({"devices": ("",)}, "lb.devices: '' is no name of an interface"),
        ({"acceleration": "native"}, "lb.acceleration: there are no lb.devices"),
        (
            {"devices": ("eth0",), "acceleration": "fast"},
            "lb.acceleration: 'fast' is none of disabled, best-effort, native",
        ),
        ({"algorithm": "first"}, "lb.algorithm: 'first' is none of random, maglev"),
    ],
)
def test_the_section_of_services_is_checked_too(values: dict[str, Any], error: str):
    with pytest.raises(BadConfig) as bad:
        AgentConfig(node_name="n", lb=LbConfig(**values))
    assert str(bad.value) == error


def test_every_section_can_be_one_of_the_file(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "lb: {devices: [eth0, eth1], acceleration: native, maglev_size: 251}\nhubble: {ring_records: 1024}\n"
    )
    config = load(str(path), {"node_name": "n"}, {})
    assert config.lb == LbConfig(devices=("eth0", "eth1"), acceleration="native", maglev_size=251)
    assert config.hubble.ring_records == 1024


@pytest.mark.parametrize(
    ("values", "listens"),
    [
        ({}, None),
        ({"listen_tcp": ":4244", "allow_plaintext_tcp": True}, ("127.0.0.1", 4244)),
        ({"listen_tcp": "10.0.0.1:4244", "allow_plaintext_tcp": True}, ("10.0.0.1", 4244)),
        ({"listen_tcp": ":4244", "tls_cert": "c", "tls_key": "k"}, ("", 4244)),
        ({"listen_tcp": "[::1]:4244", "tls_cert": "c", "tls_key": "k"}, ("::1", 4244)),
    ],
)
def test_without_a_host_plaintext_stays_on_loopback_and_tls_is_everywhere(
    values: dict[str, Any], listens: tuple[str, int] | None
):
    assert HubbleConfig(**values).tcp == listens


def test_every_key_has_a_flag_that_says_so_and_is_understood():
    @click.command()
    @agent_options
    def command(config: str | None, **flags: object) -> None:
        click.echo(load(config, flags, {}).hubble)

    shown = CliRunner().invoke(command, ["--help"]).output
    assert all(key.flag in shown for key in KEYS)
    done = CliRunner().invoke(
        command, ["--hubble-ring-records", "2048", "--hubble-allow-plaintext-tcp", "--node-name", "n"]
    )
    assert "ring_records=2048" in done.output
    assert "allow_plaintext_tcp=True" in done.output


@pytest.mark.parametrize(
    "text", ["hubble: {metrics: [tcp, 'drop:sourceContext=pod']}", "hubble: {metrics: tcp  drop:sourceContext=pod}"]
)
def test_a_list_is_a_list_in_the_file_or_words_anywhere(tmp_path: Path, text: str):
    path = tmp_path / "c.yaml"
    path.write_text(f"{text}\n")
    wanted = ("tcp", "drop:sourceContext=pod")
    listen = {"node_name": "n", "hubble_metrics_listen": ":9965"}
    assert load(str(path), listen, {}).hubble.metrics == wanted
    assert load(None, listen, {"CPLANE_HUBBLE_METRICS": " ".join(wanted)}).hubble.metrics == wanted
    assert load(None, {**listen, "hubble_metrics": " ".join(wanted)}, {}).hubble.metrics == wanted


def test_certificates_of_metrics_have_the_names_of_cilium() -> None:
    flags = {key.flag for key in KEYS if "_tls_" in key.name or key.name.endswith("enable_tls")}
    names = ("enable-tls", "tls-cert-file", "tls-key-file", "tls-client-ca-files")
    assert flags >= {f"--{prefix}-{name}" for prefix in ("prometheus", "hubble-metrics-server") for name in names}
    given = {"metrics_listen": ":9962", "hubble_metrics_listen": ":9965"}
    for prefix in ("prometheus", "hubble_metrics_server"):
        given |= {f"{prefix}_tls_cert_file": "c", f"{prefix}_tls_key_file": "k", f"{prefix}_tls_client_ca_files": "a b"}
    on = {"prometheus_enable_tls": True, "hubble_metrics_server_enable_tls": True}
    config = load(None, {"node_name": "n", **given, **on}, {})
    assert config.metrics_tls == config.hubble.metrics_tls == TlsFiles("c", "k", ("a", "b"))
    assert AgentConfig(node_name="n").metrics_tls is None
    assert told(flags=given) == [
        "prometheus_enable_tls: certificates are given, but it is off: it would be plaintext",
        "hubble.metrics_server_enable_tls: certificates are given, but it is off: it would be plaintext",
    ]
    assert told(flags=on) == [
        "prometheus_enable_tls: nothing is served: give metrics_listen too",
        "prometheus_tls_cert_file: it is missing, and TLS is on",
        "prometheus_tls_key_file: it is missing, and TLS is on",
        "hubble.metrics_server_enable_tls: nothing is served: give hubble.metrics_listen too",
        "hubble.metrics_server_tls_cert_file: it is missing, and TLS is on",
        "hubble.metrics_server_tls_key_file: it is missing, and TLS is on",
    ]


def test_metrics_and_exports_that_make_no_sense_are_told(tmp_path: Path):
    assert told(
        folder=tmp_path,
        file="metrics_listen: nine\nhubble: {metrics: [1], metrics_listen: 'a:1', metrics_sets_max: 5,\n"
        "export_file_path: a, flowlogs_config_path: b, export_file_max_backups: 20000}\n",
        flags={"hubble_export_fieldmask": "time"},
    ) == [
        "hubble.metrics: a list of texts is wanted, not [1]",
        "metrics_listen: 'nine' is not host:port or :port",
        "hubble.metrics_listen: 'a' is not an address; write an IPv6 one in brackets",
        "hubble.metrics_sets_max: 5 is not from 100 to 1000000",
        "hubble.export_file_path: 'a' is not an absolute path",
        "hubble.flowlogs_config_path: 'b' is not an absolute path",
        "hubble.export_file_max_backups: 20000 is more than 10000",
    ]
