"""Weights of an earlier final training as the start of another one."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_nas.errors import CheckpointError
from lightning_nas.files.checkpoints import read_checkpoint

_AUXILIARY = "auxiliary_head."
"""Attribute under which networks have their auxiliary classifier."""

_SHOWN = 5


def load_initial_weights(
    path: str, network: nn.Module, num_classes: int, architecture: Mapping[str, Any] | None
) -> tuple[list[str], list[str]]:
    """Copy the weights of a checkpoint to a new network of the same architecture, and say in the log which.

    Classifiers keep their own initial weights if the checkpoint has another number of classes. An auxiliary classifier
    that only one of both has is left alone.

    Args:
        path: Path or URL of a checkpoint of a final training.
        network: The network.
        num_classes: Number of its outputs.
        architecture: The architecture of the network as in a checkpoint; None for a network of one's own.

    Returns:
        Names of the tensors of the network that were copied, and of those that were not.

    Raises:
        CheckpointError: The file is not a checkpoint of a final training, or is of another architecture or size.
    """
    checkpoint = read_checkpoint(path, option="--model.initial_weights")
    prefix = "network."
    found = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    own = network.state_dict()
    if not found:
        raise CheckpointError(
            f"{path} has no network of a final training. Set initial_weights to a checkpoint of TrainTask."
        )
    new = _classifiers(network, found, num_classes) | {n for n in {**own, **found} if _in_one(n, own, found)}
    wrong = [n for n in {**own, **found} if n not in new and _shape(own, n) != _shape(found, n)]
    exported = checkpoint.get("export")
    made = exported.get("architecture") if isinstance(exported, Mapping) else None
    if wrong or made != architecture:
        listed = [f"{n} ({_shape(found, n)} in the checkpoint, {_shape(own, n)} here)" for n in wrong[:_SHOWN]]
        tensors = (
            f"{len(wrong)} tensors differ, such as {', '.join(listed)}" if wrong else "no shape of a tensor differs"
        )
        raise CheckpointError(
            f"{path} is of another network: {'another architecture; ' if made != architecture else ''}{tensors}. Set "
            "initial_weights to a checkpoint of the same architecture, channels and cells."
        )
    infinite = [n for n in own if n not in new and not bool(torch.isfinite(found[n]).all())]
    if infinite:
        raise CheckpointError(f"{path} has values of {infinite[0]} that are not finite. Use another checkpoint.")
    copied = [n for n in own if n not in new]
    with torch.no_grad():
        for name in copied:
            own[name].copy_(found[name])
    initialised, left = [n for n in own if n in new], [n for n in found if n not in own]
    rank_zero_info(
        f"{path}: copied {len(copied)} of {len(own)} tensors. Newly initialised: {', '.join(initialised) or 'none'}."
        + (f" Not used from the checkpoint: {', '.join(left):.500}." if left else "")
    )
    return copied, initialised


def _classifiers(network: nn.Module, found: Mapping[str, Tensor], num_classes: int) -> set[str]:
    """Tensors of the layers whose outputs are the classes, where a checkpoint has another number of them."""
    names = {
        f"{place}.{name}" if place else name: value
        for place, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and num_classes == len(module.weight)
        for name, value in module.named_parameters(recurse=False)
    }
    other = {
        name: len(found[name])
        for name, value in names.items()
        if name in found and found[name].ndim == value.ndim and found[name].shape[1:] == value.shape[1:]
    }
    outputs = set(other.values()) - {num_classes}
    # layers of the body may have as many outputs as there are classes, but another network changes what reads them, too
    return {name for name, count in other.items() if {count} == outputs}


def _in_one(name: str, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is part of an auxiliary classifier that only one of two networks has."""
    has = [any(each.startswith(_AUXILIARY) for each in names) for names in (own, found)]
    return name.startswith(_AUXILIARY) and has[0] != has[1]


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(tensors[name].shape) if name in tensors else "absent"
