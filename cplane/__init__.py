"""cplane: eBPF networking with a control plane that never forgets; importing it costs nothing."""

__version__ = "0.1.0"
