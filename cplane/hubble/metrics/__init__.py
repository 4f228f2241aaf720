"""Prometheus metrics of flows, under upstream's names: whole batches are grouped, and a group is counted once.

May import `cplane.config`, `cplane.telemetry`, the ring, its tables and its texts; must not import the observer.
"""
