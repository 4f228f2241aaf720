"""What the kernel leaves behind and nobody else removes.

May import datapath.kernel and datapath.maps; the decisions are pure functions, the sweeps apply them.
"""
