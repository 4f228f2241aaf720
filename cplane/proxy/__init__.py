"""Processes that enforce layer 7 on this node: how they are run, told and heard, and our own proxies.

They go on without the agent, with the rules that they had last. May import domain, telemetry, transport and config;
must not import what decides or records: a proxy is a process without an engine.
"""
