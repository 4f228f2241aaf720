"""Configuration values of the programs, as CONFIG(name) of bpf/lib/config.h reads them."""

from collections.abc import Mapping
from typing import Final

DEFAULTS: Final[Mapping[str, int]] = {
    "ct_tcp_s": 8000,
    "ct_tcp_syn_s": 60,
    "ct_tcp_closing_s": 10,
    "ct_any_s": 60,
    "report_interval_s": 5,
    "allow_icmp_frag_needed": 1,
    "sock_hostns_only": 0,
    "node_port_bind_protection": 1,
    "lb": 0,
    "dsr_dispatch": 1,  # DSR_* of dsr.h
    "maglev_size": 16381,
    "maglev_seed4": 0x71DCDA46,  # of the default seed, as domain.maglev takes it apart
    "maglev_seed6": 0x92505688,
    "debug": 0,
}


def defines(config: Mapping[str, int]) -> tuple[str, ...]:
    """Compiler arguments, in an order that depends on names only. Raises KeyError for a name that no program reads."""
    for name in config:
        if name not in DEFAULTS:
            raise KeyError(f"{name!r} is no setting of the programs; there are {', '.join(sorted(DEFAULTS))}")
    return tuple(f"-DCONFIG_{name}={config[name]}" for name in sorted(config))
