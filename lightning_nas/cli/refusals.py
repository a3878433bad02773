"""What errors of Lightning, and of constructors, mean to the user of the command line."""

import traceback
from pathlib import Path

import lightning
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_nas.errors import CheckpointError, ConfigError, DataError, NASError

_LIGHTNING = Path(lightning.__file__).parent

_RESTORING = _LIGHTNING / "pytorch" / "trainer" / "connectors" / "checkpoint_connector.py"
"""The module that hands the parts of a checkpoint to those that restore themselves from it."""


def typed(error: Exception) -> NASError | None:
    """Translate an error that a command of Lightning has ended with.

    Args:
        error: The error.

    Returns:
        An error of this library. None if the error is one already, or if it needs its traceback, as it comes from a
        mistake in a program.
    """
    if isinstance(error, NASError | OSError):
        return None
    said = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and "DataLoader worker" in said:
        return DataError(
            f"A process that reads images has died: {error}. The usual cause is a lack of memory, or of shared memory "
            "in /dev/shm. Use fewer num_workers, 0 for none, or smaller batches; a run continues from its last "
            "checkpoint."
        )
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name != "__getattr__"]
    if any(Path(frame.filename) == _RESTORING and "restore" in frame.name for frame in frames):
        return CheckpointError(
            f"A part of the checkpoint cannot be restored ({type(error).__name__}: {said:.500}). It is damaged or of "
            "another configuration. Use another checkpoint, or start anew without --ckpt_path."
        )
    if isinstance(error, MisconfigurationException) or _LIGHTNING in Path(frames[-1].filename).parents:
        return ConfigError(
            f"Lightning refuses the configuration: {said} Change the options of the trainer, or of its callbacks or "
            "logger."
        )
    return None


def refusal(error: BaseException) -> NASError:
    """Find what a constructor has said, whose error the parser wraps in others about the types of arguments.

    Args:
        error: What the parser has raised.
    """
    inner = error
    while (behind := inner.__cause__ or inner.__context__) is not None and not isinstance(inner, NASError):
        inner = behind
    if isinstance(inner, NASError):
        return inner
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    said = f"{type(error).__name__}: {' '.join(str(error).split()):.500}"
    return ConfigError(f"A part of the configuration cannot be made: {said}{where}. Change its arguments.")
