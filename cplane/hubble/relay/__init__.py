"""The `hubble-relay` command: one observer for the flows of many nodes.

May import `cplane.pb`, `cplane.transport`, `cplane.telemetry`, `cplane.terminal`, `cplane.errors`, protobuf, grpclib,
numpy and click; must not import the flow store, its parser or its filters: flows pass through as the bytes that they
are.
"""
