"""What a user wants of `hubble observe`, as the options say it."""

from dataclasses import dataclass
from typing import Final

JSON: Final = ("json", "jsonpb")
TABLE: Final = ("table", "tab")
GRAPHS: Final = ("dot", "json", "mermaid")
AGENT_TYPES: Final = (  # what users call them; upstream's command completes the same words
    *("unspecified", "message", "agent-started", "policy-updated", "policy-deleted", "endpoint-regenerate-success"),
    *("endpoint-regenerate-failure", "endpoint-created", "endpoint-deleted", "ipcache-upserted", "ipcache-deleted"),
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asked for; the fields are the options."""

    filters: tuple[tuple[str, str], ...] = ()  # (flag, value), in their order
    last: int = 0
    first: int = 0
    everything: bool = False
    follow: bool = False
    since: str = ""
    until: str = ""
    raw_only: bool = False
    output: str = "compact"
    time_format: str = "StampMilli"
    node_name: bool = False
    policy_names: bool = False
    numeric: bool = False
    names: bool = True
    color: str = "auto"
    silent: bool = False
    field_mask: tuple[str, ...] = ()
    default_mask: bool = True
    input_file: str = ""
    types: tuple[str, ...] = ()  # of agent events
