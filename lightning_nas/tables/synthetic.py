"""Synthetic results, for tests and for trying out a search without a table."""

from itertools import product
from pathlib import Path

import numpy as np

from lightning_nas.checks import at_least
from lightning_nas.spaces.nasbench201.network import CELL_OPERATIONS
from lightning_nas.tables.nasbench201 import EDGES, published_name

BEST, WORST = 95.0, 10.0
"""Accuracies in percent of the best and the worst cell, without noise."""


def write_nasbench201(path: str | Path, seed: int = 0, trials: int = 3, noise: float = 0.2) -> Path:
    """Write synthetic results of all 15,625 cells of NAS-Bench-201 in the format of ``NASBench201Table``.

    The accuracies ``cifar10_val_200`` and ``cifar10_test_200``, ``(cells, trials)``, in percent, are sums of effects
    of single operations and of pairs of operations, the same for both columns, so that a ranking can be learned, plus
    Gaussian noise that differs by trial and column. ``cifar10_params`` is not the true number of parameters, but grows
    with the convolutions in the same way.

    Args:
        path: Path of the npz file.
        seed: Seed of the effects and of the noise.
        trials: Number of noisy accuracies per cell, at least 1.
        noise: Standard deviation of the noise in percentage points, at least 0.

    Returns:
        The path of the npz file.

    Raises:
        ConfigError: A number is too small.

    Example:
        ```python
        table = NASBench201Table(str(write_nasbench201("synthetic.npz")))
        ```
    """
    at_least(1, trials=trials)
    at_least(0, noise=noise)
    names = list(CELL_OPERATIONS)
    generator = np.random.default_rng(seed)
    cells = np.array(list(product(range(len(names)), repeat=EDGES)), np.uint8)
    one_hot = np.eye(len(names))[cells].reshape(len(cells), -1)
    effects = generator.normal(size=one_hot.shape[1])
    pairs = generator.normal(scale=0.3, size=(one_hot.shape[1],) * 2)
    accuracy = one_hot @ effects + np.einsum("ci,ij,cj->c", one_hot, pairs, one_hot)
    accuracy = WORST + (BEST - WORST) * (accuracy - accuracy.min()) / np.ptp(accuracy)
    columns = {
        name: (accuracy[:, None] + generator.normal(scale=noise, size=(len(cells), trials))).astype(np.float32)
        for name in ("cifar10_val_200", "cifar10_test_200")
    }
    weights = np.array([sum(p.numel() for p in CELL_OPERATIONS[name](16).parameters()) for name in names])
    texts = [published_name([names[operation] for operation in cell]) for cell in cells.tolist()]
    path = Path(path)
    with path.open("wb") as file:
        np.savez(
            file,
            arch=np.array(texts),
            ops=cells,
            op_names=np.array(names),
            cifar10_params=weights[cells].sum(1).astype(np.int32),
            **columns,
        )
    return path
