"""DNS names and the patterns that select them.

Names are compared in lower case and with the dot at their end. In a pattern `*` stands for any number of characters
within one label; `**.` at the start stands for one or more whole labels; stars alone are every name.
"""

import re
from typing import Final

TEXT_MAX: Final = 255

_NAME: Final = re.compile(r"[-a-zA-Z0-9_]+(?:\.[-a-zA-Z0-9_]+)*\.?")
_PATTERN: Final = re.compile(r"[-a-zA-Z0-9_.*]+")
_LABEL_CHARACTER: Final = "[-a-z0-9_]"


def name_problem(text: str) -> str:
    """What is wrong with a `matchName`; empty when nothing is."""
    if len(text) > TEXT_MAX:
        return f"it has {len(text)} characters, at most {TEXT_MAX} can stand here"
    if not _NAME.fullmatch(text):
        star = "; for a pattern write matchPattern" if "*" in text else ""
        return f"a name has letters, digits, '-', '_' and single dots between them{star}"
    return ""


def pattern_problem(text: str) -> str:
    """What is wrong with a `matchPattern`; empty when nothing is."""
    if len(text) > TEXT_MAX:
        return f"it has {len(text)} characters, at most {TEXT_MAX} can stand here"
    if not _PATTERN.fullmatch(text):
        return "a pattern has letters, digits, '-', '_', '.' and '*'"
    return ""


def canonical(name: str) -> str:
    """The name as it is compared: in lower case, with a dot at the end."""
    name = name.lower()
    return name if name.endswith(".") else f"{name}."


def expression_of(pattern: str) -> str:
    """The regular expression (RE2) that matches the canonical names which the pattern selects."""
    text = pattern.lower().removesuffix(".")
    if not text.strip("*"):
        return rf"(?:{_LABEL_CHARACTER}+\.)+|\." if text else r"\."
    head = ""
    if text.startswith("**."):
        head, text = rf"(?:{_LABEL_CHARACTER}+\.)+", text[3:]
    body = "".join(f"{_LABEL_CHARACTER}*" if c == "*" else re.escape(c) for c in re.sub(r"\*+", "*", text))
    return rf"{head}{body}\."
