"""Pixels of any depth become 8-bit pixels, by one rule that never looks at a single image."""

from typing import Any

import numpy as np
import pytest

from lightning_nas.data import pixels as pixels_module
from lightning_nas.data.pixels import eight_bits
from lightning_nas.errors import DataError

GREY = np.arange(256, dtype=np.uint8)


def test_eight_bits_are_left_alone() -> None:
    assert eight_bits(GREY, "x") is GREY


@pytest.mark.parametrize(
    ("deep", "bits"),
    [
        (GREY.astype(np.uint16) * 257, 16),
        (GREY.astype(">u2") * 257, 16),
        (np.rint(GREY * (4095 / 255)).astype(np.uint16), 12),
        (GREY / 255, 16),
        ((GREY / 255).astype(np.float32), 16),
        (GREY.astype(np.int32), 16),
        (GREY.astype(np.uint32), 16),
    ],
    ids=["16 bits", "16 bits, big-endian", "12 bits", "float64", "float32", "int32", "uint32"],
)
def test_every_depth_is_scaled_to_the_same_range(deep: Any, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels_module, "AT_ONCE", 100)  # in parts, the last of which is shorter
    shallow = eight_bits(deep.reshape(16, 16), "x", bits)
    assert shallow.dtype == np.uint8
    assert np.array_equal(shallow, GREY.reshape(16, 16))


def test_booleans_are_black_and_white() -> None:
    assert eight_bits(np.array([True, False]), "x").tolist() == [255, 0]
    assert eight_bits(np.zeros((0, 2), np.float32), "x").shape == (0, 2)


@pytest.mark.parametrize(
    ("deep", "said"),
    [
        (np.array([0, 256]), "int64 pixels from 0 to 256"),
        (np.array([-1, 255], np.int16), "int16 pixels from -1 to 255"),
        (np.array([0.0, 1.5]), "float64 pixels from 0 to 1.5"),
        (np.array([-0.5, 0.5], np.float32), "float32 pixels from -0.5 to 0.5"),
        (np.array([np.nan, 0.5]), "float64 pixels from nan to nan"),
        (np.array([1j]), "complex128 pixels;"),
        (np.array(["a"]), "<U1 pixels;"),
    ],
)
def test_pixels_of_unknown_scale_are_refused(deep: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"my images has {said}.*Rescale all images alike"):
        eight_bits(deep, "my images")
