"""Sharpness of minima: the largest curvature of a loss, and its rise nearby."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_nas.checks import at_least, greater_than


def largest_eigenvalue(loss: Tensor, parameters: Sequence[Tensor], tolerance: float = 1e-2) -> float:
    """Largest eigenvalue, in the algebraic sense, of the Hessian of a loss, by Lanczos iterations.

    A negative eigenvalue of larger size does not count (``smallest_eigenvalue`` is the other end). If all are negative,
    this is the one closest to 0.

    The products with the Hessian are exact; each of them costs one backward pass through the gradient. Differences of
    gradients would not do: between two near points some ReLU switches, and the gradient jumps.

    Args:
        loss: A scalar with its graph, which can be differentiated twice.
        parameters: The parameters of the Hessian; the loss need not depend on all of them.
        tolerance: Relative error at which the iterations end.

    Returns:
        The eigenvalue; 0 if the loss has no curvature.
    """
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, eigsh

    with torch.enable_grad():
        parts = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)
    gradient = torch.cat([part.flatten() for part in parts])
    if not gradient.requires_grad:
        return 0.0

    def product(vector: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        direction = torch.from_numpy(np.array(vector, dtype=np.float64).reshape(-1)).to(gradient)
        found = torch.autograd.grad(
            gradient, parameters, direction, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        flat: np.ndarray[Any, Any] = torch.cat([part.detach().flatten() for part in found]).double().cpu().numpy()
        return flat

    start = np.random.default_rng(0).standard_normal(len(gradient))
    if not product(start).any():  # no parameter has a second derivative: Lanczos could not start
        return 0.0
    if len(start) == 1:
        return float(product(np.ones(1))[0])
    hessian = LinearOperator((len(start), len(start)), matvec=product, dtype=np.float64)
    (value,) = eigsh(hessian, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return float(value)


def smallest_eigenvalue(
    loss: Tensor, parameters: Sequence[Tensor], tolerance: float = 1e-2, *, largest: float | None = None
) -> float:
    """Smallest eigenvalue, in the algebraic sense, of the Hessian of a loss; see ``largest_eigenvalue``.

    If its size is larger than that of the largest one, it is the eigenvalue of largest size. It is the largest
    eigenvalue minus that of the Hessian subtracted from it: near a minimum the smallest one is close to 0, and an error
    relative to itself would take many products.

    Args:
        loss: A scalar with its graph, which can be differentiated twice.
        parameters: The parameters of the Hessian; the loss need not depend on all of them.
        tolerance: Error at which the iterations end, relative to the spread of the eigenvalues: from the smallest one
            to the largest one, or to 0 if all are negative.
        largest: What ``largest_eigenvalue`` has found; None, the default, measures it.

    Returns:
        The eigenvalue; 0 if the loss has no curvature.
    """
    top = max(largest_eigenvalue(loss, parameters, tolerance) if largest is None else largest, 0.0)
    with torch.enable_grad():
        squares = torch.stack([(part - part.detach()).square().sum() for part in parameters]).sum()
        shifted = top / 2 * squares - loss
    return top - largest_eigenvalue(shifted, parameters, tolerance)


def loss_rise(
    loss: Callable[[dict[str, Tensor]], Tensor],
    weights: Mapping[str, Tensor],
    radius: float,
    directions: int = 4,
    seed: int = 0,
) -> float:
    """Mean rise of a loss, ``loss(w + radius * |w| * d) - loss(w)``, over random directions d of norm 1.

    Args:
        loss: Computes the loss, a scalar, from weights by name.
        weights: The weights w by name; ``|w|`` is the norm of all of them together.
        radius: Distance as a fraction of that norm, greater than 0.
        directions: Number of random directions, at least 1.
        seed: Seed of the directions.

    Raises:
        ConfigError: A number is out of its range.
    """
    greater_than(0, radius=radius)
    at_least(1, directions=directions)
    generator = torch.Generator().manual_seed(seed)
    own = {name: weight.detach() for name, weight in weights.items()}
    norm = torch.stack([weight.norm() for weight in own.values()]).norm()
    with torch.no_grad():
        here, rises = float(loss(own)), []
        for _ in range(directions):
            drawn = {n: torch.randn(w.shape, generator=generator, dtype=torch.float64) for n, w in own.items()}
            scale = radius * norm / torch.stack([d.norm() for d in drawn.values()]).norm().to(norm)
            there = {name: weight + scale * drawn[name].to(weight) for name, weight in own.items()}
            rises.append(float(loss(there)) - here)
    return sum(rises) / len(rises)
