"""Weights that stay as they are where no path of a step used them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_nas.spaces.base import Supernet


class UnusedWeightGuard:
    """Keeps the weights of operations that no path of a step used exactly as they were: no momentum, no decay.

    Where an operation has parameters of its own, optimizers leave them alone if they have no gradient. Batched
    supernets keep those of many operations in one tensor; an optimizer's step would move the unused parts, too, by
    their momentum and decay. ``before_step`` copies these parts and their optimizer state, ``after_step`` puts them
    back. What has a gradient that is zero throughout counts as unused, as in the published code of SPOS.

    Args:
        network: A supernet.
    """

    def __init__(self, network: nn.Module) -> None:
        parameters = dict(network.named_parameters())
        entries = network.per_edge() if isinstance(network, Supernet) else ()
        own = [entry[1:4] for entry in entries if entry[3] and entry[1] in parameters]
        self.parts = [(parameters[name], full, part) for name, full, part in own]
        shared = {name for name, _, _ in own}
        self.whole = [parameter for name, parameter in parameters.items() if name not in shared]
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._new: list[tuple[Tensor, Sequence[int], tuple[int | slice, ...]]] = []

    def before_step(self, optimizer: Optimizer) -> None:
        """Note the unused parts; gradients are there, the step is not yet taken."""
        self._kept, self._new = [], []
        for group in optimizer.param_groups:
            if group.get("fused") and group.get("momentum"):  # such an SGD ends where some have no momentum yet
                for p in group["params"]:
                    optimizer.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        moving = [p for p in self.whole if p.grad is not None]
        if moving:
            used = torch.stack([p.grad.any() for p in moving if p.grad is not None]).tolist()
            for p, on in zip(moving, used, strict=True):
                p.grad = p.grad if on else None
        present = [(p, full, part) for p, full, part in self.parts if p.grad is not None]
        if not present:
            return
        used = torch.stack([p.grad.reshape(full)[part].any() for p, full, part in present]).tolist()  # type: ignore[union-attr]
        for (p, full, part), on in zip(present, used, strict=True):
            if on:
                continue
            held = [p.data, *(v for v in optimizer.state[p].values() if isinstance(v, Tensor) and v.shape == p.shape)]
            self._kept += [(_part(tensor, full, part), _part(tensor, full, part).clone()) for tensor in held]
            if not optimizer.state[p]:
                self._new.append((p, full, part))

    def after_step(self, optimizer: Optimizer) -> None:
        """Put them back; state that the step has made for them starts at zero."""
        for place, value in self._kept:
            place.copy_(value)
        for p, full, part in self._new:
            for value in optimizer.state[p].values():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    _part(value, full, part).zero_()
        self._kept, self._new = [], []


def _part(tensor: Tensor, full: Sequence[int], part: tuple[int | slice, ...]) -> Tensor:
    """A view of an operation's own part."""
    return tensor.view(full)[part]
