"""Reading checkpoints without executing anything that is in them, whatever their origin."""

import os
import re
import reprlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lightning_nas.errors import CheckpointError
from lightning_nas.files.artifacts import LARGEST_PICKLE

CHECKPOINT_KEY = "lightning_nas_config"
"""Where a checkpoint holds the configuration of its run."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything that is in it.

    Raises:
        CheckpointError: The file is no checkpoint, or was not written by this library.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")  # opening a pipe would wait
        with path.open("rb") as file:
            checkpoint = load_saved(file)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Check the path given as --ckpt_path.") from None
    except Exception as error:  # torch raises many kinds for a damaged or hostile file
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({type(error).__name__}: "
            f"{' '.join(str(error).split()):.200}). Use one that 'lightning-nas fit' wrote."
        ) from None
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise CheckpointError(
            f"{path} was not written by 'lightning-nas fit': it has no configuration. Resume it where it was made, or "
            "start anew without --ckpt_path."
        )
    wrong = _wrong_parts(checkpoint)
    if wrong:
        raise CheckpointError(
            f"{path} is damaged or made up: its {', '.join(wrong)} cannot be of a 'lightning-nas fit'. Use another "
            "checkpoint of the run, or start anew without --ckpt_path."
        )
    return checkpoint


_LIGHTNING = re.compile(r"([2-9]|\d\d)\.\d+\.\d+(\.?(a|b|rc|dev|post)\d+)*(\+\w+)?", re.ASCII)


def _wrong_parts(checkpoint: Mapping[str, Any]) -> list[str]:
    """Which parts of a checkpoint Lightning or this library could not work with, or must not."""
    always = {"state_dict": dict, "loops": dict, "epoch": int, "global_step": int, "pytorch-lightning_version": str}
    sometimes = {"callbacks": dict, "optimizer_states": list, "lr_schedulers": list}
    kinds: dict[str, type] = {**always, **{key: kind for key, kind in sometimes.items() if key in checkpoint}}
    wrong = [key for key, kind in kinds.items() if not isinstance(checkpoint.get(key), kind)]
    if wrong:
        return wrong
    weights = checkpoint["state_dict"].items()
    config = checkpoint[CHECKPOINT_KEY]
    model = config.get("model") if isinstance(config, dict) else None
    found = {
        "state_dict": all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights),
        CHECKPOINT_KEY: isinstance(model, dict) and isinstance(model.get("class_path"), str),
        # Lightning rewrites checkpoints of its releases before 2, and this library never used those
        "pytorch-lightning_version": _LIGHTNING.fullmatch(checkpoint["pytorch-lightning_version"]),
        # Lightning's command line takes these in place of what the configuration says
        "hyper_parameters": not checkpoint.get("hyper_parameters"),
        "callbacks": all(_within_run(state) for state in checkpoint.get("callbacks", {}).values()),
    }
    return [key for key, fits in found.items() if not fits]


def _within_run(state: Any) -> bool:
    """Whether no path in a callback's state leaves its folder: Lightning deletes what they name, with all below it."""
    if not isinstance(state, dict):
        return True
    paths = [str(value) for key, value in state.items() if "path" in str(key)]
    best = state.get("best_k_models")
    paths += [str(path) for path in best] if isinstance(best, dict) else []
    return not any("::" in path or "://" in path or ".." in Path(path).parts for path in paths)


_CALLED = {
    "__builtin__ complex",
    "__builtin__ set",
    "collections Counter",
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
}
_PLAIN = {"BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "LONG1", "NEWFALSE", "NEWTRUE", "NONE"}
_EMPTY = {"EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET", "EMPTY_TUPLE"}
_MADE_OF = {"BINPERSID": 1, "REDUCE": 2, "TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ADDED = {"APPEND": 1, "APPENDS": None, "BUILD": 1, "SETITEM": 2, "SETITEMS": None}
"""Opcodes of a pickle by the number of values that they take from its stack; None: all above the last mark."""

_DEEPEST = 100
_MOST_COPIES = 10


def load_saved(file: IO[bytes]) -> Any:
    """Read what ``torch.save`` wrote: tensors, numbers, text, lists and dictionaries. Nothing in it is executed.

    What torch's own reader for weights would take, but a checkpoint has no use for, is refused before: packed parts,
    parts larger than the file, calls of anything that makes no tensor, and values that are nested or repeated so often
    that looking at them would not end. Memory and time stay in proportion to the file.

    Args:
        file: Open for reading, from anywhere; a file that takes its place on the disk meanwhile is not looked at.

    Raises:
        Exception: Of many kinds, as of ``torch.load``, for a damaged or hostile file.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
            raise ValueError("its parts are packed, or larger than the file")
        pickles = [m for m in members if m.filename.lower().endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > LARGEST_PICKLE:
            raise ValueError(f"it has {len(pickles)} parts data.pkl; expected one of at most {LARGEST_PICKLE} bytes")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} has another checksum than noted")
        _check_pickle(archive.read(pickles[0]))
    file.seek(0)
    content = torch.load(file, weights_only=True, map_location="cpu")
    for tensor in _tensors(content):
        if tensor.numel() * tensor.element_size() > size:
            raise ValueError(f"a tensor has shape {tuple(tensor.shape)}, which is more than the file holds")
    return content


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in lists and dictionaries; each of these is looked at once."""
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
    """A value of a pickle.

    Attributes:
        size: Number of values in it, each as often as it is reached, and itself.
        depth: How deep they lie.
        inside: Whether it is part of another value.
    """

    size: int = 1
    depth: int = 0
    inside: bool = False

    def take(self, parts: Sequence["_Value"], largest: int) -> None:
        for part in parts:
            part.inside = True
            self.size += part.size
            self.depth = max(self.depth, part.depth + 1)
        if self.inside:
            raise ValueError("a value changes after it became part of another, or is part of itself")
        if self.depth > _DEEPEST or self.size > largest:
            raise ValueError(f"its values are nested more than {_DEEPEST} deep, or repeated endlessly")


def _check_pickle(data: bytes) -> None:
    """Go through a pickle without making what it says.

    Raises:
        ValueError: It calls something unknown, or its values are nested too deep or too large.
        IndexError: It takes values that there are not.
        KeyError: Likewise.
    """
    import pickletools

    stack: list[_Value] = []
    marks: list[int] = []
    memo: dict[Any, _Value] = {}
    plain, largest = _Value(inside=True), _MOST_COPIES * len(data)
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name == "GLOBAL" and not _known(str(argument)):
            raise ValueError(f"it calls {reprlib.repr(argument)}")
        if name in _PLAIN or name == "GLOBAL":
            stack.append(plain)
        elif name in _EMPTY:
            stack.append(_Value())
        elif name in _MADE_OF or name in _ADDED:
            count = _MADE_OF[name] if name in _MADE_OF else _ADDED[name]
            start = marks.pop() if count is None else len(stack) - count
            if start < 0:
                raise IndexError("a value is missing")
            parts = stack[start:]
            del stack[start:]
            if name in _MADE_OF:
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


def _known(called: str) -> bool:
    """Whether a global of a pickle is a type of numbers, or makes a value of plain ones."""
    module, _, name = called.partition(" ")
    of_numbers = module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype))
    return called in _CALLED or (of_numbers and name not in ("TypedStorage", "UntypedStorage"))
