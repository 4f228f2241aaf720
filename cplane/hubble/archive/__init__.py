"""Flows older than the ring: closed segments as Parquet files in one folder, each complete in itself.

May import the ring, its tables and the store, `cplane.telemetry` and, where an archive is opened, pyarrow (the extra
`archive`); must not import the observer, the parser or filters. Nothing here runs on the event loop but the copying
of rows out of the ring.
"""
