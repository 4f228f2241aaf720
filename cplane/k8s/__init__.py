"""Kubernetes as texts say it: manifests become pods, nodes, services and policies, and those a scene to ask about.

May import `cplane.domain`, `cplane.config` and `cplane.errors`; must not import the engine, the event log, another
edge, or anything that touches the world: bytes come in, values go out.
"""
