"""Process: the CNI plugin, started by a container runtime once per verb and gone after it.

A pod waits for it, so it imports the standard library, `cplane.api.cni.wire` and `cplane.api.cni.queue` and
nothing else; all work is the agent's.
"""
