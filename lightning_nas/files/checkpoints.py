"""Reading the checkpoints of ``lightning-nas fit`` safely, wherever they come from."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor

from lightning_nas.errors import CheckpointError
from lightning_nas.files.torch_files import load_saved

CHECKPOINT_KEY = "lightning_nas_config"
"""Key of a checkpoint under which the configuration of its run is stored."""

_VERSION = re.compile(r"([2-9]|\d\d)\.\d+\.\d+(\.?(a|b|rc|dev|post)\d+)*(\+\w+)?", re.ASCII)
"""Lightning rewrites the checkpoints of its releases before 2, which this library never used."""


LARGEST_DOWNLOAD = 16 * 2**30
"""Size in bytes of the largest checkpoint that is downloaded, so that a server cannot fill the disk."""

_CHUNK = 2**22

_SUFFIX = ".ckpt"
_DELETED = ("best_model_path", "kth_best_model_path", "last_model_path")
"""Paths in the state of ``ModelCheckpoint`` that Lightning deletes when a better checkpoint takes their place."""


def is_remote(path: str | Path) -> bool:
    """Whether a path of a file is a URL, such as ``https://…`` or ``s3://…``.

    Args:
        path: A path, or a URL of any scheme that fsspec knows.
    """
    return "://" in str(path)


def local_path(path: str | Path) -> Path | None:
    """Return the path of a file on this machine, or None if it is elsewhere.

    Args:
        path: A path, or a URL of any scheme that fsspec knows; ``file://`` is this machine.
    """
    if not is_remote(path):
        return Path(path)
    filesystem, name = url_to_fs(str(path))
    return Path(name) if isinstance(filesystem, LocalFileSystem) else None


@contextmanager
def opened(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file of any origin for reading and seeking.

    A file that is elsewhere is first downloaded completely to a temporary file, so that what is checked is what is
    read, whatever the server answers next.

    Args:
        path: A path, or a URL of any scheme that fsspec knows.

    Yields:
        The open file.

    Raises:
        ValueError: It is not a regular file, or larger than ``LARGEST_DOWNLOAD``.
        Exception: Errors of many classes, where the file cannot be found, opened or downloaded.
    """
    local = local_path(path)
    if local is None:
        with tempfile.TemporaryFile() as copy:
            _download(str(path), copy)
            yield copy
        return
    if local.exists() and not local.is_file():
        raise ValueError("it is not a regular file")  # opening a pipe would block
    with local.open("rb") as file:
        yield file


def _download(url: str, copy: IO[bytes]) -> None:
    """Copy the file at a URL, and go back to the beginning of the copy."""
    filesystem, name = url_to_fs(url)
    with filesystem.open(name, "rb") as source:
        while chunk := source.read(_CHUNK):
            if copy.tell() + len(chunk) > LARGEST_DOWNLOAD:
                raise ValueError(f"it has more than {LARGEST_DOWNLOAD} bytes")
            copy.write(chunk)
    copy.seek(0)


def read_checkpoint(path: str | Path, option: str = "--ckpt_path") -> dict[str, Any]:
    """Read a checkpoint without executing anything that is in it, whatever its origin.

    Args:
        path: The file to read: a path, or a URL of any scheme that fsspec knows, such as ``https://…`` or ``s3://…``.
            A file at a URL is downloaded completely before anything in it is read.
        option: Option that names the file, for messages.

    Returns:
        The checkpoint, with tensors on the CPU. Lightning can resume from it.

    Raises:
        CheckpointError: The file is not a checkpoint, or was not written by this library.
    """
    try:
        with opened(path) as file:
            checkpoint = load_saved(file)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Check the path given as {option}.") from None
    except Exception as error:  # a damaged or hostile file can raise errors of any class
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({type(error).__name__}: "
            f"{' '.join(str(error).split()):.200}). Use one that 'lightning-nas fit' wrote."
        ) from None
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise CheckpointError(
            f"{path} was not written by 'lightning-nas fit': it has no configuration. Resume it with the program that "
            f"wrote it, or start anew without {option}."
        )
    wrong = _wrong_parts(checkpoint, str(path))
    if wrong:
        raise CheckpointError(
            f"{path} is damaged or forged: 'lightning-nas fit' never writes such values for {', '.join(wrong)}. Use "
            f"another checkpoint of the run, or start anew without {option}."
        )
    return checkpoint


def _wrong_parts(checkpoint: Mapping[str, Any], origin: str) -> list[str]:
    """Keys of a checkpoint whose values Lightning or this library cannot use, or must not use."""
    always = {"state_dict": dict, "loops": dict, "epoch": int, "global_step": int, "pytorch-lightning_version": str}
    sometimes = {"callbacks": dict, "optimizer_states": list, "lr_schedulers": list}
    kinds: dict[str, type] = {**always, **{key: kind for key, kind in sometimes.items() if key in checkpoint}}
    wrong = [key for key, kind in kinds.items() if not isinstance(checkpoint.get(key), kind)]
    if wrong:
        return wrong
    weights = checkpoint["state_dict"].items()
    config = checkpoint[CHECKPOINT_KEY]
    model = config.get("model") if isinstance(config, dict) else None
    valid = {
        "state_dict": all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights),
        CHECKPOINT_KEY: isinstance(model, dict) and isinstance(model.get("class_path"), str),
        "pytorch-lightning_version": _VERSION.fullmatch(checkpoint["pytorch-lightning_version"]),
        # Lightning's command line would use these instead of what the configuration says
        "hyper_parameters": not checkpoint.get("hyper_parameters"),
        "callbacks": all(_stays_in_run(state, origin) for state in checkpoint.get("callbacks", {}).values()),
    }
    return [key for key, fits in valid.items() if not fits]


def _stays_in_run(state: Any, origin: str) -> bool:
    """Whether no path in the state of a callback can point outside its run.

    Lightning deletes what the state of ``ModelCheckpoint`` names: local paths inside the folder of its checkpoints, and
    URLs anywhere, folders with everything in them. A path may therefore be a URL only beside the checkpoint itself, and
    what may be deleted must have the name of a checkpoint, and not be a folder.

    Args:
        state: The state of a callback.
        origin: Path or URL of the checkpoint.
    """
    if not isinstance(state, dict):
        return True
    paths = {str(key): str(value) for key, value in state.items() if "path" in str(key)}
    best = state.get("best_k_models")
    models = [str(path) for path in best] if isinstance(best, dict) else []
    deleted = [*models, *(paths[key] for key in _DELETED if paths.get(key))]
    folder = origin.rpartition("/")[0]
    return all(_stays_local(path) or _is_beside(path, folder) for path in [*paths.values(), *models]) and all(
        path.endswith(_SUFFIX) and not _is_folder(path) for path in deleted
    )


def _is_folder(path: str) -> bool:
    """Whether a path is that of a folder on this machine."""
    with suppress(OSError, ValueError):  # it cannot be that of anything
        return Path(path).is_dir()
    return False


def _stays_local(path: str) -> bool:
    """Whether a path is one of this machine that does not lead upwards."""
    return not is_remote(path) and "::" not in path and ".." not in Path(path).parts


def _is_beside(path: str, folder: str) -> bool:
    """Whether a URL is that of a folder on another machine, or of a file in it."""
    if not is_remote(folder) or "::" in path + folder or local_path(folder) is not None:
        return False
    return path == folder or path.rpartition("/")[0] == folder
