"""Reading the checkpoints of ``lightning-nas fit`` safely, wherever they come from."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_nas.errors import CheckpointError
from lightning_nas.files.torch_files import load_saved

CHECKPOINT_KEY = "lightning_nas_config"
"""Key of a checkpoint under which the configuration of its run is stored."""

_VERSION = re.compile(r"([2-9]|\d\d)\.\d+\.\d+(\.?(a|b|rc|dev|post)\d+)*(\+\w+)?", re.ASCII)
"""Lightning rewrites the checkpoints of its releases before 2, which this library never used."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing anything that is in it.

    Args:
        path: The file to read.

    Returns:
        The checkpoint, with tensors on the CPU. Lightning can resume from it.

    Raises:
        CheckpointError: The file is not a checkpoint, or was not written by this library.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")  # opening a pipe would block
        with path.open("rb") as file:
            checkpoint = load_saved(file)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Check the path given as --ckpt_path.") from None
    except Exception as error:  # a damaged or hostile file can raise errors of any class
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({type(error).__name__}: "
            f"{' '.join(str(error).split()):.200}). Use one that 'lightning-nas fit' wrote."
        ) from None
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise CheckpointError(
            f"{path} was not written by 'lightning-nas fit': it has no configuration. Resume it with the program that "
            "wrote it, or start anew without --ckpt_path."
        )
    wrong = _wrong_parts(checkpoint)
    if wrong:
        raise CheckpointError(
            f"{path} is damaged or forged: 'lightning-nas fit' never writes such values for {', '.join(wrong)}. Use "
            "another checkpoint of the run, or start anew without --ckpt_path."
        )
    return checkpoint


def _wrong_parts(checkpoint: Mapping[str, Any]) -> list[str]:
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
        "callbacks": all(_stays_in_run(state) for state in checkpoint.get("callbacks", {}).values()),
    }
    return [key for key, fits in valid.items() if not fits]


def _stays_in_run(state: Any) -> bool:
    """Whether no path in the state of a callback points outside its folder.

    Lightning deletes checkpoints that the state of ``ModelCheckpoint`` names, including whole folders.
    """
    if not isinstance(state, dict):
        return True
    paths = [str(value) for key, value in state.items() if "path" in str(key)]
    best = state.get("best_k_models")
    paths += [str(path) for path in best] if isinstance(best, dict) else []
    return not any("::" in path or "://" in path or ".." in Path(path).parts for path in paths)
