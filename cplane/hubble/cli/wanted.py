"""What a user wants of `hubble observe`, as the options say it."""

from dataclasses import dataclass
from typing import Final

JSON: Final = ("json", "jsonpb")
TABLE: Final = ("table", "tab")


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
