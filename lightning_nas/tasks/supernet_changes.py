"""Another supernet in the middle of a differentiable search, and how a checkpoint tells of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_nas.architecture import Architecture
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError
from lightning_nas.spaces.base import DifferentiableSpace, Supernet
from lightning_nas.spaces.convert import inherit, inherit_optimizer

if TYPE_CHECKING:
    from lightning_nas.tasks.bilevel import BilevelTask


def restrict(task: "BilevelTask", allowed: Mapping[str, Tensor]) -> None:
    """Take operations away; see ``BilevelTask.restrict``."""
    _check_alone(task, "Operations cannot be taken away")
    space = task.space.restrict(allowed)
    task.discretizer.check(space)
    task.space = space
    before = task.supernet
    after = _made(task)
    inherit(after, before)
    _hold(task, after)
    if task.weights:  # there are optimizers
        inherit_optimizer(task.trainer.optimizers[0], after, before)
        task.weights = dict(after.named_parameters())


def rebuild(task: "BilevelTask", space: DifferentiableSpace) -> None:
    """Begin anew in another space; see ``BilevelTask.rebuild``."""
    _check_alone(task, "A search cannot begin anew")
    if task.closed.frozen is not None:
        raise ConfigError(
            "The architecture is frozen, so the search cannot begin anew in another space. Freeze it after the last "
            "change of the space."
        )
    named = [(each.cell_types, each.nodes, each.operations) for each in (task.space, space)]
    if named[0] != named[1]:
        raise ConfigError(
            f"A search in cells of {named[0]} cannot go on in cells of {named[1]} (cell types, edges of the nodes, "
            "operations): its alphas would mean something else. Take operations away by `allowed`."
        )
    task.discretizer.check(space)
    task.space, task.began = space, task.current_epoch
    seed = derived_seed(task.seed, "rebuild", task.began)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _hold(task, _made(task))
    draw_alphas(task, seed)
    if task._trainer is not None and task.trainer.optimizers:
        task.trainer.strategy.setup_optimizers(task.trainer)


def freeze(task: "BilevelTask", found: Architecture) -> None:
    """End the search, not the training: the supernet is one architecture from now on, whatever the alphas are.

    Args:
        task: The search; its alphas stay as they are.
        found: A point of its space; operations of others go.

    Raises:
        ConfigError: Several processes hold the weights together.
    """
    allowed = {name: torch.zeros_like(mask) for name, mask in task.space.allowed.items()}
    for name, pairs in task.space.chosen(found).items():
        allowed[name][tuple(torch.tensor(pairs).t())] = True
    restrict(task, allowed)
    task.closed.frozen = found


def _check_alone(task: "BilevelTask", what: str) -> None:
    trainer = task._trainer
    if trainer is not None and trainer.world_size > 1 and trainer.training:
        raise ConfigError(
            f"{what} while {trainer.world_size} processes train the supernet together. Do it before the run, or use "
            "one device."
        )


def _hold(task: "BilevelTask", supernet: Supernet) -> None:
    task.hold(supernet)
    for regularizer in task.regularizers:
        regularizer.attach(task)


def _made(task: "BilevelTask") -> Supernet:
    """A new supernet where, and in the mode in which, the present one is."""
    like = next(task.supernet.parameters())
    made = task.space.supernet(**task.supernet_arguments)
    return made.to(like.device, like.dtype).train(task.supernet.training)


def draw_alphas(task: "BilevelTask", seed: int) -> None:
    """New values for all alphas of a search, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for alphas in task.alpha_list:
            alphas.copy_(task.alpha_scale * torch.randn(alphas.shape, generator=generator))


def note(task: "BilevelTask", checkpoint: dict[str, Any]) -> None:
    """Write into a checkpoint which supernet its weights are of."""
    checkpoint["allowed"] = dict(task.space.allowed)
    checkpoint["space"], checkpoint["began"] = task.space.arguments(), task.began
    checkpoint["frozen"] = None if task.closed.frozen is None else list(task.closed.frozen.choices)


def follow(task: "BilevelTask", checkpoint: dict[str, Any]) -> None:
    """Make the supernet that the weights of a checkpoint are of; one of another network is left for others to find."""
    if checkpoint["began"]:
        task.rebuild(type(task.space)(**checkpoint["space"]))
    task.began = checkpoint["began"]
    allowed, mine = checkpoint["allowed"], task.space.allowed
    alike = {name: m.shape for name, m in allowed.items()} == {name: m.shape for name, m in mine.items()}
    if alike and any(not torch.equal(allowed[name].cpu(), mine[name]) for name in mine):
        task.restrict(allowed)
    if alike and checkpoint["frozen"] is not None:
        task.closed.frozen = task.space.architecture(checkpoint["frozen"])
