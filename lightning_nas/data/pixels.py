"""Pixels of any depth become 8-bit pixels, by one rule for arrays and files.

| pixels | become |
|---|---|
| 8-bit integers | themselves |
| unsigned integers of 9 to 16 bits | ``round(255 * value / (2**bits - 1))`` |
| other integers | themselves, if all lie from 0 to 255 |
| floats | ``round(255 * value)``, if all lie from 0 to 1 |
| booleans | 0 and 255 |

Everything else is refused, since its scale is unknown. The rule never depends on the values of a single image, so that
all images of a set are scaled alike.
"""

from typing import Any

import numpy as np

from lightning_nas.errors import DataError

Pixels = np.ndarray[Any, Any]

AT_ONCE = 2**24
"""Number of values that are converted at a time, so that large arrays need no large intermediate ones."""


def eight_bits(pixels: Pixels, source: str, bits: int = 16) -> Pixels:
    """Convert pixels to 8 bits.

    Args:
        pixels: Pixels of any shape and type.
        source: What the pixels are, for the error message.
        bits: Bit depth of unsigned 16-bit integers, which may be smaller than 16.

    Returns:
        uint8 pixels of the same shape; ``pixels`` itself if it has this type.

    Raises:
        DataError: The pixels have another type, or lie outside of the range whose scale is known.
    """
    if pixels.dtype == np.uint8:
        return pixels
    highest = _highest(pixels.dtype, bits)
    if highest is None or not _within(pixels, highest):
        raise DataError(
            f"{source} has {pixels.dtype} pixels{_range(pixels)}; expected 8-bit or unsigned 16-bit integers, other "
            "integers from 0 to 255, or floats from 0 to 1. Rescale all images alike, and save them with 8 or 16 bits."
        )
    converted = np.empty(pixels.shape, np.uint8)
    flat, out = pixels.reshape(-1), converted.reshape(-1)
    for start in range(0, flat.size, AT_ONCE):
        part = flat[start : start + AT_ONCE]
        out[start : start + AT_ONCE] = np.rint(part * (255 / highest)) if highest != 255 else part
    return converted


def _highest(dtype: np.dtype[Any], bits: int) -> int | None:
    """The value that becomes 255; None if the type is not accepted."""
    if dtype.kind == "u" and dtype.itemsize == 2:  # of either byte order
        return (1 << bits) - 1
    if dtype.kind in ("i", "u"):
        return 255
    return 1 if dtype.kind in ("f", "b") else None


def _within(pixels: Pixels, highest: float) -> bool:
    """Whether all values lie from 0 to ``highest``; not-a-number does not."""
    return not pixels.size or bool(pixels.min() >= 0 and pixels.max() <= highest)


def _range(pixels: Pixels) -> str:
    """The range of the values, for an error message."""
    if not pixels.size or pixels.dtype.kind not in "iufb":
        return ""
    return f" from {pixels.min():.6g} to {pixels.max():.6g}"
