"""Flows as lines of JSON in files, as upstream's exporter writes them.

May import `cplane.config`, `cplane.telemetry`, the ring, its tables, filters and JSON writer; must not import the
observer.
"""
