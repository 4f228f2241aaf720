"""The `hubble` command: flows, status and namespaces of an observer, asked and printed as upstream's command does.

A composition root of its own. May import the rest of `cplane.hubble`, `cplane.pb`, `cplane.transport`,
`cplane.telemetry`, `cplane.terminal`, `cplane.domain` and click; what is heavy only inside functions, because
`--help` must be quick. Nothing imports it.
"""
