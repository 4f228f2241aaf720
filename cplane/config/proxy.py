"""What can be told about the proxies of layer 7."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_WORKERS_MAX: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """Envoy and our own proxies, which run as long as any rule needs them."""

    enabled: bool = field(
        default=True,
        metadata={"help": "run the proxies that rules of layer 7 ask for; without them such traffic is dropped"},
    )
    secrets_dir: str = field(
        default="",
        metadata={
            "help": "folder with a file for each item of a secret, <namespace>/<name>/<item>, as Kubernetes mounts "
            "them (default: <state_dir>/secrets)"
        },
    )
    secrets_kubernetes: str = field(
        default="",
        metadata={
            "help": "read the secrets that policies name from the API of Kubernetes instead: in-cluster, or the path "
            "of a kubeconfig, whose current context counts"
        },
    )
    envoy_workers: int = field(default=2, metadata={"help": "threads of Envoy that serve connections, 1 to 256"})
    kafka_clamp: bool = field(
        default=True,
        metadata={"help": "tell Kafka clients of those API versions only in which requests name topics by their names"},
    )

    def faults(self) -> Iterator[tuple[str, str]]:
        """Everything that is wrong here: key, relative to this section, and what."""
        if self.secrets_dir and self.secrets_kubernetes:
            yield "secrets_kubernetes", "secrets come from there or from proxy.secrets_dir: give one of them"
        if not 1 <= self.envoy_workers <= _WORKERS_MAX:
            yield "envoy_workers", f"{self.envoy_workers} is not from 1 to {_WORKERS_MAX}"
