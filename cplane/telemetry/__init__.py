"""What a process says about itself, and its only source of time and of ids.

May import `cplane.errors`, structlog, prometheus-client and the standard library; must not import the core, the
engine or edges.
"""
