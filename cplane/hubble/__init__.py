"""Hubble: kernel records become flows in a ring of columns, and observers read them over Hubble's own API.

May import `cplane.domain`, `cplane.pb`, `cplane.transport`, `cplane.telemetry`, `cplane.errors`,
`datapath.notify`, numpy, msgspec, protobuf and grpclib, and in `archive` pyarrow; must not import the engine, the
event log, deciders, the kernel or netlink: observing changes nothing.
"""
