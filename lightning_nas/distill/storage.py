"""The numbers of a proxy in few bits: affine integers, packed into bytes.

A floating-point tensor is cut into slices along one of its dimensions. The values of a slice, from its lowest to its
highest, become the integers from 0 to 2^bits - 1,

    code = round((value - lowest) / step),    step = (highest - lowest) / (2^bits - 1)

so that ``lowest + step * code`` differs from the value by at most half a step. Codes are stored one after the other
without gaps, beside the two float32 numbers of every slice. Integers such as labels are stored exactly, in as many bits
as the largest one needs.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_nas.files.artifacts import LARGEST_TENSORS

BITS = (2, 3, 4, 5, 6, 7, 8, 16, 32)
"""Bits per number in which a proxy can be stored: affine integers, float16 or float32."""

_RANGE = ".range"
"""What the name of a tensor's slices ends with: the lowest value and the step of each, ``(slices, 2)``."""

_LARGEST = 32
"""Bits of the largest packed integers."""


def pack(codes: Tensor, bits: int) -> Tensor:
    """Write integers one after the other, the most significant bit first.

    Args:
        codes: Integers from 0 to 2^bits - 1, of any shape.
        bits: Bits of an integer, from 1 to 32.

    Returns:
        uint8 ``(ceil(integers * bits / 8),)``; unused bits of the last byte are 0.
    """
    width = 1 if bits <= 8 else 4  # bytes of an integer before it is packed, the most significant one first
    whole = codes.flatten().numpy().astype(f">u{width}").view(np.uint8).reshape(-1, width)
    return torch.from_numpy(np.packbits(np.unpackbits(whole, axis=1)[:, 8 * width - bits :].reshape(-1)))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Read what ``pack`` has written.

    Args:
        packed: uint8, one-dimensional.
        bits: Bits of an integer, from 1 to 32.
        count: Number of integers.

    Returns:
        int64 ``(count,)``.

    Raises:
        ValueError: There are more or fewer bytes than so many integers take.
    """
    if packed.dtype != torch.uint8 or packed.shape != (_packed_bytes(count, bits),):
        raise ValueError(
            f"{count} integers of {bits} bits take {_packed_bytes(count, bits)} bytes, not {packed.dtype} of shape "
            f"{tuple(packed.shape)}"
        )
    single = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    codes = np.zeros(count, dtype=np.int64)
    for place in range(bits):
        codes = codes << 1 | single[:, place]
    return torch.from_numpy(codes)


def _packed_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def encode(
    tensors: Mapping[str, Tensor], bits: int, slice_dims: Mapping[str, int]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Turn the tensors of a scheme into those of its file.

    Args:
        tensors: Tensors by name; floating-point ones, and integers of at least 0.
        bits: One of ``BITS``. With 32, floating-point tensors become float32 and integers stay as they are. With 2 to
            8, tensors of less than two dimensions are float32, too.
        slice_dims: Dimension of each tensor along which every index has a range of its own; 0 where it is not named.

    Returns:
        The tensors to write, and how to read them, as JSON values.

    Raises:
        ValueError: A number is not finite, or too large for float16.
    """
    written: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Any]] = {}
    for name, tensor in ((name, each.detach().cpu()) for name, each in tensors.items()):
        if bits != 32 and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite")
        if bits == 32:
            written[name] = tensor.float() if tensor.is_floating_point() else tensor
        elif not tensor.is_floating_point():
            own = max(1, int(tensor.max()).bit_length())
            written[name] = pack(tensor, own)
            packed[name] = {"bits": own, "shape": list(tensor.shape)}
        elif bits == 16:
            written[name] = tensor.half()
            if not bool(torch.isfinite(written[name]).all()):
                raise ValueError(f"{name} has a value of {float(tensor.abs().max()):g}, too large for float16")
        elif tensor.ndim < 2:  # a range for every number would take more bytes
            written[name] = tensor.float()
        else:
            dim = slice_dims.get(name, 0)
            codes, ranges = _quantized(tensor.float(), bits, dim)
            written[name], written[name + _RANGE] = pack(codes, bits), ranges
            packed[name] = {"bits": bits, "shape": list(tensor.shape), "dim": dim}
    return written, {"bits": bits, "packed": packed}


def _quantized(tensor: Tensor, bits: int, dim: int) -> tuple[Tensor, Tensor]:
    """The codes of a tensor, and the lowest value and the step of every slice."""
    rows = tensor.transpose(0, dim).flatten(1)
    lowest, highest = rows.aminmax(dim=1)
    step = (highest - lowest) / (2**bits - 1)
    ranges = torch.stack([lowest, step], dim=1)
    low, width = (_along(each, tensor.ndim, dim) for each in (lowest, step))
    codes = ((tensor - low) / torch.where(width > 0, width, 1)).round().clamp(0, 2**bits - 1)
    return codes.long(), ranges


def _along(values: Tensor, ndim: int, dim: int) -> Tensor:
    """Give one value per slice the shape that spreads over a tensor."""
    return values.view([-1 if each == dim else 1 for each in range(ndim)])


def decode(tensors: Mapping[str, Tensor], storage: Any) -> dict[str, Tensor]:
    """Turn the tensors of a file back into those of a scheme.

    Args:
        tensors: What was written.
        storage: How to read it, as ``encode`` has returned it.

    Returns:
        float32 and int64 tensors by name.

    Raises:
        ValueError: The two do not belong together.
        KeyError: An entry or a tensor is missing.
        TypeError: An entry is of another type.
    """
    if storage["bits"] not in BITS:
        raise ValueError(f"it is stored in {storage['bits']!r:.50} bits instead of one of {BITS}")
    rest, found = dict(tensors), {}
    for name, entry in dict(storage["packed"]).items():
        bits, shape, dim = entry["bits"], entry["shape"], entry.get("dim")
        numbers = [bits, *shape, 0 if dim is None else dim]
        if any(type(each) is not int for each in numbers) or not 1 <= bits <= _LARGEST or min(shape, default=0) < 1:
            raise ValueError(f"{name} is described as {entry!r:.100}")
        count = math.prod(shape)
        if 8 * count > LARGEST_TENSORS:
            raise ValueError(f"{name} has {count} numbers")
        values = unpack(rest.pop(name), bits, count).view(shape)
        if dim is None:
            found[name] = values
            continue
        ranges = rest.pop(name + _RANGE)
        if not 0 <= dim < len(shape) or ranges.dtype != torch.float32 or ranges.shape != (shape[dim], 2):
            raise ValueError(f"{name}{_RANGE} is {ranges.dtype} of shape {tuple(ranges.shape)}")
        lowest, step = (_along(each, len(shape), dim) for each in ranges.unbind(1))
        found[name] = lowest + step * values
    for name, tensor in rest.items():
        half = storage["bits"] == 16 and tensor.dtype == torch.float16
        found[name] = tensor.float() if half else tensor
    return found


def stored_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Size in bytes of tensors as they are written, ranges included.

    Args:
        tensors: What ``encode`` has returned.
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
