"""gRPC over unix sockets and TCP: servers that bad clients cannot hurt, and channels to them.

May import `cplane.errors`, `cplane.pb`, grpclib, anyio and asyncio; must not import the core, the engine or
edges. This is, with telemetry, the only place where asyncio is spoken directly: grpclib is written for it.
"""
