"""Regular expressions of users, in time that is linear in the text: RE2, as in Envoy and in Go.

The only module of `cplane.domain` that imports a library: a user's expression must not be able to stop the agent, and
Python's own engine can be made to run for ever.
"""

from functools import lru_cache
from typing import Final

import re2

_PROBLEM_MAX: Final = 120  # characters; the library repeats what it could not read
_EXPRESSIONS_MAX: Final = 4096  # compiled and kept; a further one takes the place of the least recently used


def problem(expression: str) -> str:
    """What is wrong with the expression; empty when nothing is."""
    try:
        _compiled(expression)
    except re2.error as error:
        text = error.args[0] if error.args else "it cannot be read"
        return (text.decode(errors="replace") if isinstance(text, bytes) else str(text))[:_PROBLEM_MAX]
    except UnicodeEncodeError:
        return "it holds half of a surrogate pair"
    return ""


def matches(expression: str, text: str) -> bool:
    """Whether all of the text is what the (valid) expression describes."""
    return _compiled(expression).fullmatch(text) is not None


@lru_cache(maxsize=_EXPRESSIONS_MAX)
def _compiled(expression: str) -> "re2._Regexp":
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    return re2.compile(expression, options)
