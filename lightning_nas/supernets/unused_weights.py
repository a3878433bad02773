"""A guard that leaves unused weights unchanged."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_nas.spaces.supernet import Supernet


class UnusedWeightGuard:
    """Leaves the weights of operations that no path of a step used unchanged: no momentum, no weight decay.

    If every operation has parameters of its own, optimizers skip those without a gradient. A batched supernet holds the
    weights of many operations in one tensor, and an optimizer's step would move the unused parts too, by their momentum
    and decay. ``before_step`` copies these parts and their optimizer state, and ``after_step`` puts them back. A part
    whose gradient is zero everywhere counts as unused, as in the published code of SPOS.

    Args:
        network: A supernet.

    Example:
        ```python
        guard = UnusedWeightGuard(supernet)
        loss.backward()
        guard.before_step(optimizer)
        optimizer.step()
        guard.after_step(optimizer)
        ```
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
        """Copy the unused parts of the weights and of the optimizer's state.

        Args:
            optimizer: Optimizer of the weights; their gradients are computed, its step is not yet taken.
        """
        self._kept, self._new = [], []
        for group in optimizer.param_groups:
            if group.get("fused") and group.get(
                "momentum"
            ):  # fused SGD fails if only some weights have a momentum buffer
                for p in group["params"]:
                    optimizer.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        moving = [(p, p.grad) for p in self.whole if p.grad is not None]
        parts = [(p, full, part, p.grad) for p, full, part in self.parts if p.grad is not None]
        flags = [g.any() for _, g in moving] + [g.reshape(full)[part].any() for _, full, part, g in parts]
        # the only place where the host waits for the device, once per step
        used = torch.stack(flags).tolist() if flags else []
        for (p, grad), on in zip(moving, used[: len(moving)], strict=True):
            p.grad = grad if on else None
        for (p, full, part, _), on in zip(parts, used[len(moving) :], strict=True):
            if on:
                continue
            held = [p.data, *(v for v in optimizer.state[p].values() if isinstance(v, Tensor) and v.shape == p.shape)]
            self._kept += [(_part(tensor, full, part), _part(tensor, full, part).clone()) for tensor in held]
            if not optimizer.state[p]:
                self._new.append((p, full, part))

    def after_step(self, optimizer: Optimizer) -> None:
        """Put the copies back; state that the step has created for unused parts is set to zero.

        Args:
            optimizer: The optimizer that has taken its step.
        """
        for place, value in self._kept:
            place.copy_(value)
        for p, full, part in self._new:
            for value in optimizer.state[p].values():
                if isinstance(value, Tensor) and value.shape == p.shape:
                    _part(value, full, part).zero_()
        self._kept, self._new = [], []


def _part(tensor: Tensor, full: Sequence[int], part: tuple[int | slice, ...]) -> Tensor:
    """A view of the part that belongs to one operation."""
    return tensor.view(full)[part]
