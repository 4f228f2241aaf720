"""DNS rules: which names an endpoint may ask for."""

from dataclasses import dataclass
from typing import Final

from cplane.domain import fqdn
from cplane.domain.policy import regex
from cplane.domain.policy.document import Fields, Place, shown

_FIELDS: Final = Fields(frozenset({"matchName", "matchPattern"}))


@dataclass(frozen=True, slots=True)
class DnsRule:
    """The name asked for is `name` (canonical), or `pattern` selects it. Empty: that part selects nothing."""

    name: str = ""
    pattern: str = ""

    def matches(self, asked: str) -> bool:
        """Whether it selects the name, in any case, with or without the dot at the end."""
        asked = fqdn.canonical(asked)
        return (bool(self.name) and asked == self.name) or (
            bool(self.pattern) and regex.matches(fqdn.expression_of(self.pattern), asked)
        )

    def __str__(self) -> str:
        return self.pattern or self.name.removesuffix(".") or "nothing"


def read_dns(place: Place, *, both: bool) -> DnsRule | None:
    """A rule of `dns` or, with `both` False, an element of `toFQDNs`, which has a name or a pattern."""
    fields = place.fields(_FIELDS)
    if fields is None:
        return None
    found = {"matchName": "", "matchPattern": ""}
    for key, problem_of in (("matchName", fqdn.name_problem), ("matchPattern", fqdn.pattern_problem)):
        text = fields[key].text() if key in fields else ""
        if text and (problem := problem_of(text)):
            fields[key].refuse(f"{shown(text)}: {problem}")
        elif text:
            found[key] = text
    if not both and found["matchName"] and found["matchPattern"]:
        place.refuse("both matchName and matchPattern: write an element for each of them")
    name = fqdn.canonical(found["matchName"]) if found["matchName"] else ""
    return DnsRule(name, found["matchPattern"].lower())
