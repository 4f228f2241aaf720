"""The per-node daemon: one process, put together in `wire`.

May import everything of cplane and datapath; nothing imports it.
"""
