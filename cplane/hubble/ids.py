"""A flow's uuid: made from its position, so that it is the same at each reading and costs no memory."""

from typing import Final

import numpy as np
import numpy.typing as npt

_BITS: Final = 62  # of the lower half, below the two bits of the variant
_MASK: Final = (1 << _BITS) - 1
_FACTOR: Final = 0x1E3779B97F4A7C15  # odd, so that multiplication is reversible
_INVERSE: Final = pow(_FACTOR, -1, 1 << _BITS)
_VARIANT: Final = 0b10 << _BITS
# four hexadecimal digits of each 16-bit number
_DIGITS: Final[npt.NDArray[np.uint32]] = np.frombuffer(b"".join(b"%04x" % n for n in range(1 << 16)), np.uint32)
TEXT_BYTES: Final = 36


class FlowIds:
    """Version 4 uuids of one ring's flows; `seed` is 32 hexadecimal digits, another for each ring."""

    def __init__(self, seed: str) -> None:
        bits = int(seed, 16)
        upper = (bits >> 64) & ~0xF000 | 0x4000
        text = f"{upper:016x}"
        self.prefix = f"{text[:8]}-{text[8:12]}-{text[12:]}-"
        self._offset = bits & _MASK

    def text(self, position: int) -> str:
        """The uuid of the flow at `position`."""
        lower = f"{_VARIANT | (position * _FACTOR + self._offset) & _MASK:016x}"
        return f"{self.prefix}{lower[:4]}-{lower[4:]}"

    def texts(self, positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        """The uuids as ASCII, a row of 36 bytes for each position."""
        digits = self.digits(positions).view(np.uint8).reshape(-1, 16)
        out = np.empty((len(positions), TEXT_BYTES), np.uint8)
        out[:, :19] = np.frombuffer(self.prefix.encode(), np.uint8)
        out[:, 19:23] = digits[:, :4]
        out[:, 23] = ord("-")
        out[:, 24:] = digits[:, 4:]
        return out

    def digits(self, positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
        """The 16 digits of each uuid that others have not, as ASCII, four in a number: all but `prefix` and a dash."""
        mixed = positions * np.uint64(_FACTOR) + np.uint64(self._offset)
        lower = mixed & np.uint64(_MASK) | np.uint64(_VARIANT)
        found: npt.NDArray[np.uint32] = _DIGITS[lower.astype(">u8").view(">u2").reshape(-1, 4)]
        return found

    def position(self, uuid: str) -> int | None:
        """The position whose flow has this uuid; None when it is none of this ring's."""
        text = uuid.lower()
        if len(text) != TEXT_BYTES or not text.startswith(self.prefix) or text[23] != "-":
            return None
        try:
            lower = int(text[19:23] + text[24:], 16)
        except ValueError:
            return None
        position = ((lower & _MASK) - self._offset) * _INVERSE & _MASK
        return position if self.text(position) == text else None
