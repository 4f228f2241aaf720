"""What a template leaves behind when nobody renders it: `{{ .Values.name }}`, `{% if x %}` and `${NAME}`."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from cplane.config.problems import Problem, Value, brief, join

_BLOCK: Final = re.compile(r"\{\{[^{}\n]*\}\}|\{%[^{}\n]*%\}")
_MARK: Final = re.compile(rf"{_BLOCK.pattern}|\$\{{[A-Za-z_][^{{}}\n]*\}}")
_TOLD: Final = "looks like part of a template: render it first, for example with `helm template`"


def template_problem(text: str, errors: tuple[Problem, ...]) -> Problem | None:
    """Why a text is not YAML, if it is a template: told of its first mark that stands in no comment.

    Other mistakes than those that marks make say enough themselves: texts hold templates of others, too.
    """
    if not any(one.path.startswith("line ") or "a key that is a collection" in one.message for one in errors):
        return None
    for number, line in enumerate(text.splitlines(), 1):
        found = _BLOCK.search(line) if not line.lstrip().startswith("#") else None
        if found is not None:
            return Problem(0, f"line {number}", f"{brief(found[0])} {_TOLD}")
    return None


def template_marks(value: Value, free: frozenset[str], path: str = "") -> Iterator[tuple[str, str]]:
    """Path and message for every string that a template was to write; what `free` fields hold may look like one."""
    if isinstance(value, str):
        found = _MARK.search(value)
        if found is not None:
            yield path, f"{brief(found[0])} {_TOLD}"
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if key not in free:
                inner = join(path, str(key))
                yield from template_marks(key, free, inner)
                yield from template_marks(one, free, inner)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from template_marks(one, free, join(path, index))
