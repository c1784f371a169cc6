"""Decodes the run lengths of Label Studio's brush, which are those of thi.ng's rle-pack.

A stream of bits: 32 for the number of values, 5 for the size of a value in bits, and four times 4
for the sizes in bits of a run's length, all sizes less one. Then runs: a bit that is 1 if one value
is repeated, 2 that choose the size of the length, the length less one, and the value or values.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

CHANNELS = 4  # red, green, blue, alpha


def decode_brush(rle: Sequence[int], *, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Returns the opacity, 0…255, of each pixel of a brush's mask.

    Args:
        rle: bytes, as numbers.
        size: height and width of the picture.

    Raises:
        ValueError: numbers that are not bytes, a mask of another size, or a damaged stream.
        TypeError: something else than numbers.
    """
    bits = _Bits(bytes(rle))
    wanted, count = size[0] * size[1] * CHANNELS, bits.number(32)
    if count != wanted:
        raise ValueError(f"it has {count} values, but its picture {wanted}")
    value_size = bits.number(5) + 1
    if value_size != 8:
        raise ValueError(f"its values have {value_size} bits instead of 8")
    length_sizes = [bits.number(4) + 1 for _ in range(4)]
    values = np.empty(count, np.uint8)
    start = 0
    while start < count:
        repeated = bits.number(1)
        end = start + 1 + bits.number(length_sizes[bits.number(2)])
        if end > count:
            raise ValueError("its runs are longer than its picture")
        values[start:end] = bits.number(8) if repeated else bits.octets(end - start)
        start = end
    return values.reshape(*size, CHANNELS)[..., 3]


class _Bits:
    """Reads a stream of bits from its start; raises a ValueError at its end."""

    def __init__(self, content: bytes):
        self.content = content
        self.at = 0

    def number(self, size: int) -> int:
        """The next bits as a number, the highest first."""
        start, self.at = self.at, self.at + size
        if self.at > 8 * len(self.content):
            raise ValueError("its run lengths are cut off")
        last = -(-self.at // 8)
        window = int.from_bytes(self.content[start // 8 : last])
        return window >> (8 * last - self.at) & ((1 << size) - 1)

    def octets(self, count: int) -> UInt8[np.ndarray, "n"]:
        """The next `count` times 8 bits."""
        number = self.number(8 * count)
        return np.frombuffer(number.to_bytes(count), np.uint8)
