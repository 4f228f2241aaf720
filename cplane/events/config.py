"""Facts about the node's options."""

import msgspec


class OptionsChanged(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """These are the options now: `policy_enforcement` default, always or never; `policy_audit` of all endpoints."""

    policy_enforcement: str
    policy_audit: bool
