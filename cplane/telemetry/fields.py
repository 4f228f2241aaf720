"""The vocabulary of log lines: a key that is not here fails type checking."""

from typing import TypedDict


class Fields(TypedDict, total=False):
    """Every key that a log line of ours may carry. Durations are milliseconds, positions are the log's."""

    # who and what
    kind: str  # of a command: `policy.apply`
    actor: str
    cause: str
    code: str  # of an error
    error: str
    detail: str
    # where
    node: str
    cluster: str
    address: str
    path: str
    table: str
    device: str
    endpoint: int
    identity: int
    pod: str
    namespace: str
    container: str
    # how far and how much
    position: int
    applied: int
    events: int
    entries: int
    upserts: int
    deletes: int
    retries: int
    lost: int
    pid: int
    # how long
    took_ms: float
    # what is running
    version: str
    datapath: str
