"""Content address of compiled programs: what went in decides what comes out."""

import hashlib
from collections.abc import Mapping, Sequence


def digest(texts: Mapping[str, bytes], arguments: Sequence[str], toolchain: str) -> str:
    """32 hexadecimal digits over every source (relative path → bytes), argument and the compiler's version.

    Every part is preceded by its length, so no two different inputs are one byte string.
    """
    state = hashlib.blake2b(digest_size=16)
    for path in sorted(texts):
        _add(state, path.encode())
        _add(state, texts[path])
    for argument in (*arguments, toolchain):
        _add(state, argument.encode())
    return state.hexdigest()


def _add(state: "hashlib.blake2b", part: bytes) -> None:
    state.update(len(part).to_bytes(8, "big"))
    state.update(part)
