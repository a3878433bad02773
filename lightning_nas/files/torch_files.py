"""Reading what ``torch.save`` wrote without executing anything that is in it.

``torch.load(weights_only=True)`` executes nothing either, but a hostile file can still make it use memory and time
without end. The file is therefore checked before torch sees it: its archive, then the instructions of its pickle.
"""

import os
import pickletools
import reprlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

LARGEST_PICKLE = 8 * 2**20
"""Size in bytes of the largest pickle that is read. That of a checkpoint, which holds no tensor values, is far
smaller."""

_MOST_NESTED = 100
_MOST_COPIES = 10
"""A pickle of n bytes may describe 10 n values, where a shared value counts each time it is reached: with a few nested
references to the same lists, a small file could otherwise describe more values than any walk could visit."""

_CALLABLES = {
    "__builtin__ complex",
    "__builtin__ set",
    "collections Counter",
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
}
"""What a pickle may call, apart from types of numbers, as ``module name``."""

_SCALARS = {"BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "LONG1", "NEWFALSE", "NEWTRUE", "NONE"}
_EMPTY = {"EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE"}
_BUILT_FROM = {"BINPERSID": 1, "REDUCE": 2, "TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ADDED_TO = {"APPEND": 1, "APPENDS": None, "BUILD": 1, "SETITEM": 2, "SETITEMS": None}
"""Instructions of a pickle that push a scalar, push an empty container, replace values by one built from them, or add
values to the container below them. Numbers say how many values an instruction takes from the stack; None stands for
all values above the last mark."""


def load_saved(file: IO[bytes]) -> Any:
    """Read what ``torch.save`` wrote: tensors, numbers, text, lists and dictionaries.

    Some things that torch's own reader accepts have no place in a checkpoint and are refused beforehand: compressed
    parts, parts larger than the file, calls of anything that does not make a tensor, and values that are nested or
    repeated so often that a walk over them would not end. Memory and time stay in proportion to the size of the file.

    Args:
        file: The file, open for reading. It may come from anywhere. Only this handle is read, never its path, so that
            no other file can take its place between the check and the load.

    Returns:
        The content, with tensors on the CPU.

    Raises:
        Exception: Errors of many classes, as those of ``torch.load``, where a file is damaged or hostile.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
            raise ValueError("its parts are compressed, or larger than the file")
        pickles = [m for m in members if m.filename.lower().endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > LARGEST_PICKLE:
            raise ValueError(
                f"it has {len(pickles)} parts named data.pkl; expected one of at most {LARGEST_PICKLE} bytes"
            )
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        _check_pickle(archive.read(pickles[0]))
    file.seek(0)
    content = torch.load(file, weights_only=True, map_location="cpu")
    for tensor in _tensors(content):
        # a stride of zero makes a huge tensor of a single stored value
        if tensor.numel() * tensor.element_size() > size:
            raise ValueError(f"a tensor has shape {tuple(tensor.shape)}, which is more than the file holds")
    return content


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield all tensors in lists and dictionaries, each of which is visited once."""
    seen: set[int] = set()
    rest = [content]
    while rest:
        value = rest.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            rest.extend(value.values() if isinstance(value, dict) else value)


@dataclass(eq=False, slots=True)
class _Value:
    """The size of a value that a pickle describes, without the value.

    Attributes:
        size: Number of values in it, itself included; a value that can be reached several times counts each time.
        depth: Number of levels below it.
        inside: Whether it is part of another value.
    """

    size: int = 1
    depth: int = 0
    inside: bool = False

    def take(self, parts: Sequence["_Value"], largest: int) -> None:
        """Count ``parts`` as parts of this value.

        Raises:
            ValueError: The value would be too deep or larger than ``largest``. It must not already be part of another
                value, whose size would then be wrong; this also excludes a value that contains itself.
        """
        for part in parts:
            part.inside = True
            self.size += part.size
            self.depth = max(self.depth, part.depth + 1)
        if self.inside:
            raise ValueError("a value changes after it became part of another, or is part of itself")
        if self.depth > _MOST_NESTED or self.size > largest:
            raise ValueError(f"its values are nested more than {_MOST_NESTED} deep, or repeated endlessly")


def _check_pickle(data: bytes) -> None:
    """Follow the instructions of a pickle without building what they describe.

    Raises:
        ValueError: It calls something unknown, has an instruction that ``torch.save`` does not write, or describes
            values that are nested too deeply or too large.
        IndexError: An instruction takes a value from an empty stack.
        KeyError: An instruction asks for a value that was not stored before.
    """
    stack: list[_Value] = []
    marks: list[int] = []
    memo: dict[Any, _Value] = {}
    scalar, largest = _Value(inside=True), _MOST_COPIES * len(data)
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name == "GLOBAL" and not _is_allowed(str(argument)):
            raise ValueError(f"it calls {reprlib.repr(argument)}")
        if name in _SCALARS or name == "GLOBAL":
            stack.append(scalar)
        elif name in _EMPTY:
            stack.append(_Value())
        elif name in _BUILT_FROM or name in _ADDED_TO:
            count = _BUILT_FROM[name] if name in _BUILT_FROM else _ADDED_TO[name]
            start = marks.pop() if count is None else len(stack) - count
            if start < 0:
                raise IndexError("a value is missing")
            parts = stack[start:]
            del stack[start:]
            if name in _BUILT_FROM:
                stack.append(_Value())
            stack[-1].take(parts, largest)
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MARK":
            marks.append(len(stack))
        elif name != "STOP" and (name, argument) != ("PROTO", 2):
            raise ValueError(f"it has the opcode {name} {reprlib.repr(argument)}")


def _is_allowed(called: str) -> bool:
    """Whether a pickle may call ``module name``: a type of numbers, or a function that builds plain values."""
    module, _, name = called.partition(" ")
    of_numbers = module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype))
    return called in _CALLABLES or (of_numbers and name not in ("TypedStorage", "UntypedStorage"))
