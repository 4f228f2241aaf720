"""The agent's side of CNI: one JSON request in, one CNI document out.

`wire` and `queue` are shared with the plugin and import the standard library only. The rest may import the
pure core, the engine, transport, telemetry and `datapath.errors`; it must not import `datapath.kernel` or
`datapath.netlink`: links are made by what `ports.Plumbing` describes, by shape.
"""
