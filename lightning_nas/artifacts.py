"""Files handed from stage to stage: JSON and safetensors, written whole or not at all."""

import contextlib
import json
import os
import reprlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lightning_nas import __version__
from lightning_nas.errors import ArtifactError

SCHEMA = 1
"""Version of every JSON artifact that this release writes; it reads this one and older ones."""

LARGEST_JSON = 16 * 2**20
LARGEST_TENSORS = 4 * 2**30
LARGEST_PICKLE = 8 * 2**20
"""Bytes of the largest files, and of the largest pickle inside a checkpoint, that are read: all that this library
writes is far smaller, and a hostile file must not fill the memory."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when all is written: a killed run leaves the old one or the new one.

    Raises:
        ArtifactError: It cannot be written; what was at ``path`` is still there.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            kept = "What was written there before is unharmed. " if path.is_file() else ""
            raise ArtifactError(
                f"{path} cannot be written ({error.strerror or error}). {kept}Free space or change permissions, or "
                "name another folder; a run goes on from its last checkpoint."
            ) from error
        raise


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` whole or not at all; see ``replacing``."""
    with replacing(path) as file:
        file.write(data)
    return Path(path)


def write_json(path: str | Path, content: dict[str, Any]) -> Path:
    """Write ``content`` with its schema version and the version of this library."""
    whole = {"schema": SCHEMA, "lightning_nas": __version__, **content}
    return write_bytes(path, (json.dumps(whole, indent=2) + "\n").encode())


def read_json(path: str | Path, *, repair: str) -> dict[str, Any]:
    """Read a JSON artifact.

    Args:
        path: The file.
        repair: What makes such a file, for the error message.

    Raises:
        ArtifactError: The file is missing, empty, truncated, not an object, or of a newer schema.
    """
    path = Path(path)
    data = _read_bytes(path, LARGEST_JSON, repair)
    try:
        content = json.loads(data.decode())
        json.dumps(content, ensure_ascii=False).encode()  # text that is no Unicode could never be written again
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or a number of too many digits
        raise ArtifactError(f"{path} is not a complete JSON file ({error}). {repair}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema < 1:
        raise ArtifactError(f"{path} has no integer 'schema' from 1 on: not a file of lightning_nas. {repair}")
    if schema > SCHEMA:
        writer = reprlib.repr(content.get("lightning_nas"))
        raise ArtifactError(
            f"{path} has schema {reprlib.repr(schema)}, written by lightning_nas {writer}; this is {__version__}, "
            f"which reads schema {SCHEMA}. Upgrade lightning_nas, or write the file again."
        )
    return dict(content)


def _read_bytes(path: Path, largest: int, repair: str) -> bytes:
    """The content of an ordinary file.

    Raises:
        ArtifactError: There is none, it cannot be read, or it is too large.
    """
    try:
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path} is no file. {repair}")  # opening a pipe would wait
        size = path.stat().st_size
        if size > largest:
            raise ArtifactError(f"{path} has {size} bytes; files of its kind have at most {largest}. {repair}")
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist. {repair}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ArtifactError(f"{path} cannot be read ({error}). {repair}") from None


def write_tensors(path: str | Path, tensors: dict[str, Tensor]) -> Path:
    """Write named tensors as safetensors."""
    from safetensors.torch import save

    return write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def read_tensors(path: str | Path, *, repair: str) -> dict[str, torch.Tensor]:
    """Read named tensors from a safetensors file.

    Args:
        path: The file.
        repair: What makes such a file, for the error message.

    Raises:
        ArtifactError: The file is missing or not a complete safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    data = _read_bytes(path, LARGEST_TENSORS, repair)
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OverflowError) as error:
        raise ArtifactError(f"{path} is not a complete safetensors file ({str(error):.200}). {repair}") from None


# -- what torch.save wrote --------------------------------------------------------------------------------------------

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
