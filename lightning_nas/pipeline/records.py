"""What every stage of a pipeline has read and written, so that a later start of the pipeline sees what was replaced."""

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.files.artifacts import read_json, write_json

PACKAGES = ("lightning_nas", "torch", "lightning", "torchvision")
"""Packages whose versions all stages of a run have in common."""

_OUTPUTS = ("output_dir", "write_to")
"""Arguments of tasks that name what they write, not what they read."""


def versions() -> dict[str, str]:
    """Installed versions by package."""
    return {name: version(name) for name in PACKAGES}


LARGEST = 4 * 2**30
"""Number of bytes of a file or folder up to which all of them are read for its digest."""

_EDGE = 2**16
"""Number of bytes at both ends of a file that count for the digest of something larger."""

_LONGEST = 1024
"""Number of characters of the longest text that may be a path."""


@dataclass
class Record:
    """What is known about a stage that has begun.

    ``begun.json`` in the folder of the stage holds the first three attributes, ``done.json`` all of them.

    Attributes:
        run: Identity of the stage, which its own artifacts carry.
        versions: Versions of packages.
        inputs: Digests of the files and folders that it reads. Paths in the run folder are relative to it.
        outputs: Digests of the files that it has written, by path.
        seconds: Seconds that it took; None until it is done.
        resumed: Whether it was resumed from a checkpoint.
    """

    run: str
    versions: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]
    seconds: float | None = None
    resumed: bool = False

    @classmethod
    def new(cls, inputs: dict[str, str]) -> "Record":
        """The record of a stage that is about to begin."""
        return cls(uuid.uuid4().hex, versions(), inputs, {})

    def begin(self, folder: Path) -> None:
        """Write ``begun.json``."""
        write_json(folder / "begun.json", {"run": self.run, "versions": self.versions, "inputs": self.inputs})

    def finish(self, folder: Path) -> None:
        """Write ``done.json``."""
        seconds = {"seconds": self.seconds, "resumed": self.resumed}
        content = {"run": self.run, "versions": self.versions, "inputs": self.inputs, "outputs": self.outputs}
        write_json(folder / "done.json", {**seconds, **content})


def read_record(folder: Path) -> Record | None:
    """Read the record of a stage.

    Args:
        folder: Folder of the stage.

    Returns:
        The record; None if the stage has not begun.

    Raises:
        ArtifactError: A file is damaged.
    """
    done, begun = folder / "done.json", folder / "begun.json"
    path = done if done.is_file() else begun
    if not path.is_file():
        return None
    repair = f"Delete it to run stage {folder.name} again, from its last checkpoint."
    content = read_json(path, repair=repair)
    try:
        record = Record(str(content["run"]), _texts(content["versions"]), _texts(content["inputs"]), {})
        if path == done:
            record.outputs, record.seconds = _texts(content["outputs"]), float(content["seconds"])
            record.resumed = bool(content["resumed"])
        return record
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged ({type(error).__name__}: {error}). {repair}") from None


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise TypeError(f"{value!r:.100} does not map text to text")
    return dict(value)


def check_unchanged(records: Mapping[str, Record], run_dir: Path, rewritten: Iterable[str]) -> None:
    """Refuse to go on with a run whose data, artifacts or packages are no longer those that its stages have used.

    Args:
        records: Records of the stages that have begun, in their order.
        run_dir: Run folder.
        rewritten: Paths that a stage which is not done may have rewritten.

    Raises:
        ConfigError: Something was replaced; the message names it.
    """
    now = versions()
    expected: dict[str, tuple[str, str]] = {}
    for name, record in records.items():
        wrong = [f"{p} {record.versions.get(p)} (now {now[p]})" for p in now if record.versions.get(p) != now[p]]
        if wrong:
            raise ConfigError(
                f"Stage {name} ran with {', '.join(wrong)}; all stages of a run use the same versions. Install these "
                "versions, or use another --run_dir."
            )
        expected |= {path: (digest, name) for path, digest in {**record.inputs, **record.outputs}.items()}
    for path in rewritten:
        expected.pop(path, None)
    for path, (digest, name) in expected.items():
        found = digest_of(run_dir / path if (run_dir / path).exists() else Path(path), run_dir)
        if found != digest:
            what = "is missing" if found is None else "has changed"
            raise ConfigError(
                f"{path} {what} since stage {name} used it, so that the results of {run_dir} would be of different "
                "inputs. Restore it, or use another --run_dir."
            )


def inputs_of(config: Namespace, run_dir: Path) -> dict[str, str]:
    """Digests of all files and folders that the task and the data of a stage name.

    Args:
        config: Configuration of the stage with all defaults.
        run_dir: Run folder.
    """
    found = {}
    for text in dict.fromkeys(_texts_in([config.model.as_dict(), config.data.as_dict()])):
        digest = digest_of(Path(text), run_dir) if text and "\0" not in text and len(text) < _LONGEST else None
        if digest is not None:
            found[_relative(Path(text), run_dir)] = digest
    return found


def digests(files: Iterable[Path], run_dir: Path) -> dict[str, str]:
    """Digests of files that a stage has written.

    Args:
        files: The files; those that do not exist are left out.
        run_dir: Run folder.
    """
    found = {_relative(path, run_dir): digest_of(path, run_dir) for path in files}
    return {path: digest for path, digest in found.items() if digest is not None}


def _relative(path: Path, run_dir: Path) -> str:
    return path.relative_to(run_dir).as_posix() if path.is_relative_to(run_dir) else str(path)


def _texts_in(node: Any) -> Iterator[str]:
    """All texts of a configuration that may name an input."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key not in _OUTPUTS and key != "class_path":
                yield from _texts_in(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts_in(value)
    elif isinstance(node, str | os.PathLike):
        yield str(node)


def digest_of(path: Path, run_dir: Path) -> str | None:
    """Digest of the content of a file, or of all files in a folder with their names; None if there is no such path.

    Hidden files don't count, and neither does the run folder. Of more than ``LARGEST`` bytes, only the size of
    every file and its first and last bytes count.

    Args:
        path: The file or folder.
        run_dir: Run folder.
    """
    try:
        if path.is_file():
            return _digest(path, path.stat().st_size <= LARGEST)
        if not path.is_dir() or path.resolve() == run_dir:
            return None
    except OSError:
        return None
    found: list[Path] = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(folder, f).resolve() != run_dir)
        paths = (Path(folder, name) for name in sorted(files) if not name.startswith("."))
        found += [each for each in paths if each.is_file()]  # opening a pipe would block
    all_bytes = sum(each.stat().st_size for each in found) <= LARGEST
    whole = hashlib.blake2b(digest_size=16)
    for each in found:
        line = f"{each.relative_to(path).as_posix()}\n{_digest(each, all_bytes)}\n"
        whole.update(line.encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


_known: dict[tuple[str, bool, int, int, int], str] = {}
"""Digests of files by path and state: several stages read the same data."""


def _digest(path: Path, all_bytes: bool) -> str:
    state = path.stat()
    key = (str(path.resolve()), all_bytes, state.st_ino, state.st_size, state.st_mtime_ns)
    if key not in _known:
        with path.open("rb") as file:
            if all_bytes or state.st_size <= 2 * _EDGE:
                _known[key] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            else:
                ends = f"{state.st_size}\n".encode() + file.read(_EDGE)
                file.seek(-_EDGE, os.SEEK_END)
                _known[key] = hashlib.blake2b(ends + file.read(), digest_size=16).hexdigest()
    return _known[key]
