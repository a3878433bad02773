"""Weights of supernets in the naming of the public code, with one module per edge and operation.

A fused supernet stores the weights of many edges in one tensor. In the public naming, its weights can be exchanged with
published checkpoints, with the plain supernet, and with the supernet of a wider or narrower space.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_nas.errors import ConfigError, DataError
from lightning_nas.spaces.supernet import Supernet

State = dict[str, Tensor]


def to_per_edge(supernet: Supernet, values: Mapping[str, Tensor] | None = None) -> State:
    """Return the state of a supernet in the public naming.

    Args:
        supernet: The supernet.
        values: Tensors with the names and shapes of the supernet's own, such as the state of an optimizer; by default
            the state of the supernet.

    Returns:
        Parameters and buffers. Those of attention, which the public code does not have, keep their own names.
    """
    own = supernet.state_dict() if values is None else values
    done: set[str] = set()
    state: State = {}
    for public, name, full, part, shape in supernet.per_edge():
        if name in own:
            state[public] = own[name].reshape(full)[part].reshape(shape).clone()
            done.add(name)
    return state | {name: value.clone() for name, value in own.items() if name not in done}


def from_per_edge(state: Mapping[str, Tensor], supernet: Supernet, *, surplus: bool = False) -> None:
    """Load a state in the public naming into a supernet.

    Public supernets of NAS-Bench-201 have biases in the convolutions before batch norms, which those of this library
    leave out, because a batch norm cancels them: they change neither what a supernet computes in training nor, once its
    running means are lowered by them, in evaluation.

    Args:
        state: Parameters and buffers, for instance of a published checkpoint.
        supernet: Supernet of the same space and sizes.
        surplus: Whether the state may hold more than the supernet takes, as that of a wider space does.

    Raises:
        DataError: A tensor is missing, unknown, or has another shape.
    """
    state = _without_biases(state, {public for public, *_ in supernet.per_edge()})
    own = {name: value.clone(memory_format=torch.contiguous_format) for name, value in supernet.state_dict().items()}
    used = _fill(supernet, state, own)
    rest = [name for name in own if name not in used]
    own |= {name: state[name] for name in rest if name in state}
    unknown = [name for name in state if name not in used and name not in own]
    if unknown and not surplus:
        raise DataError(
            f"The state has {len(unknown)} tensors that this supernet does not have, such as {unknown[0]!r}. Compare "
            "cells, nodes and operations."
        )
    supernet.load_state_dict(own)


def _without_biases(state: Mapping[str, Tensor], known: set[str]) -> State:
    """Take biases of convolutions into the running means of the batch norms that follow them.

    Args:
        state: A state in the public naming, where modules that follow each other have successive numbers.
        known: Names that the supernet has; other biases are taken.
    """
    found = dict(state)
    for name in [name for name in state if name.endswith(".bias") and name not in known]:
        parent, _, number = name.removesuffix(".bias").rpartition(".")
        mean = f"{parent}.{int(number) + 1}.running_mean" if number.isdecimal() else ""
        weight = state.get(f"{parent}.{number}.weight")
        if mean in state and weight is not None and weight.dim() == 4 and state[name].shape == state[mean].shape:
            found[mean] = state[mean] - found.pop(name)
    return found


def _fill(supernet: Supernet, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> set[str]:
    """Copy tensors in the public naming into tensors with the names of a supernet; return the used names of both."""
    used: set[str] = set()
    for public, name, full, part, shape in supernet.per_edge():
        if name not in own:
            continue
        if public not in state:
            raise DataError(f"The state has no {public!r}. Compare cells, nodes and operations.")
        if tuple(state[public].shape) != shape:
            raise DataError(
                f"{public!r} has the shape {tuple(state[public].shape)}; this supernet takes {shape}. "
                "Compare channels, partial_channels and classes."
            )
        target = own[name].view(full)[part]
        target.copy_(state[public].reshape(target.shape))
        used |= {public, name}
    return used


def inherit(supernet: Supernet, wider: Supernet) -> None:
    """Copy weights and statistics by name to a supernet from that of a wider space.

    Args:
        supernet: Supernet of a restriction, which receives them.
        wider: Supernet of the wider space; see ``DifferentiableSpace.restrict``.
    """
    from_per_edge(to_per_edge(wider), supernet, surplus=True)


def inherit_optimizer(optimizer: Optimizer, supernet: Supernet, wider: Supernet) -> None:
    """Move an optimizer, with its state, to the weights of a supernet that inherited from another one.

    The state follows the weights by name. Weights that had no state, such as those of an operation that was never
    computed, begin with zeros.

    Args:
        optimizer: Optimizer of the weights of ``wider``, with one parameter group; changed in place.
        supernet: Supernet whose weights it shall train.
        wider: Supernet whose weights it trained.

    Raises:
        ConfigError: It has several parameter groups, or a state that is neither shaped as the weights nor a number.
    """
    if len(optimizer.param_groups) != 1:
        raise ConfigError(
            f"{type(optimizer).__name__} has {len(optimizer.param_groups)} parameter groups, but a supernet that "
            "changes can keep only one. Put all weights into one group."
        )
    group = optimizer.param_groups[0]
    before = dict(wider.named_parameters())
    after = dict(supernet.named_parameters())
    states = {name: optimizer.state[p] for name, p in before.items() if p in optimizer.state}
    for p in before.values():
        optimizer.state.pop(p, None)
    group["params"] = list(after.values())
    for key in {key for state in states.values() for key in state}:
        held = {name: state[key] for name, state in states.items() if state.get(key) is not None}
        if not held:
            continue
        shaped = all(isinstance(v, Tensor) and v.shape == before[name].shape for name, v in held.items())
        numbers = all(not isinstance(v, Tensor) or v.numel() == 1 for v in held.values())
        if not (shaped or numbers):
            raise ConfigError(
                f"{type(optimizer).__name__} keeps {key!r} in other shapes than those of the weights, so that it "
                "cannot be moved to another supernet. Use SGD, Adam or AdamW."
            )
        if shaped:
            filled = {name: held.get(name, torch.zeros_like(p)) for name, p in before.items()}
            for name, value in _moved(supernet, after, wider, filled).items():
                optimizer.state[after[name]][key] = value
            continue
        # such as a count of steps, which belongs to a whole parameter: moved as if every element had it
        sample = next(iter(held.values()))
        filled = {name: torch.full_like(p, float(held.get(name, 0)), dtype=torch.float64) for name, p in before.items()}
        for name, value in _moved(supernet, after, wider, filled).items():
            number = float(value.max())
            new = torch.full_like(sample, number) if isinstance(sample, Tensor) else type(sample)(number)
            optimizer.state[after[name]][key] = new


def _moved(supernet: Supernet, after: Mapping[str, Tensor], wider: Supernet, values: State) -> State:
    """Values for all weights of one supernet, turned by name into values for those of another."""
    public = to_per_edge(wider, values)
    own = {name: torch.zeros_like(p, dtype=next(iter(values.values())).dtype) for name, p in after.items()}
    used = _fill(supernet, public, own)
    return own | {name: public[name] for name in own if name not in used and name in public}
