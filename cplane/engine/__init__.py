"""The engine: commands in, durable events, tables that converge.

May import the pure core, telemetry and config; meets the event log and the datapath only by the shapes in `ports`.
"""
