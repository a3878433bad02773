"""Made-up results, for tests and for trying things out where no table is."""

from itertools import product
from pathlib import Path

import numpy as np

from lightning_nas.errors import ConfigError
from lightning_nas.spaces.nasbench201.network import CELL_OPERATIONS
from lightning_nas.spaces.nasbench201.space import NASBench201Space

BEST, WORST = 95.0, 10.0
"""Percent that the best and the worst cell have, before noise."""


def write_nasbench201(path: str | Path, seed: int = 0, trials: int = 3, noise: float = 0.2) -> Path:
    """Write made-up results of all 15,625 cells of NAS-Bench-201 in the format of ``NASBench201Table``.

    Accuracies are additive effects of the operations and of pairs of them, the same for both columns, so that ranks
    can be learned, and Gaussian noise that differs by trial and column: ``cifar10_val_200`` and ``cifar10_test_200``,
    ``(cells, trials)``, in percent. ``cifar10_params`` are not true, but grow with the convolutions as those do.

    Args:
        path: The npz file.
        seed: Of the effects and of the noise.
        trials: Noisy results of a cell, at least 1.
        noise: Their standard deviation, in points.

    Returns:
        The path.

    Raises:
        ConfigError: ``trials`` is below 1 or ``noise`` below 0.
    """
    if trials < 1 or noise < 0:
        raise ConfigError(f"trials is {trials} and noise {noise}; they must be at least 1 and 0.")
    names = list(CELL_OPERATIONS)
    space = NASBench201Space()
    generator = np.random.default_rng(seed)
    cells = np.array(list(product(range(len(names)), repeat=space.edges)), np.uint8)
    one_hot = np.eye(len(names))[cells].reshape(len(cells), -1)
    effects = generator.normal(size=one_hot.shape[1])
    pairs = generator.normal(scale=0.3, size=(one_hot.shape[1],) * 2)
    worth = one_hot @ effects + np.einsum("ci,ij,cj->c", one_hot, pairs, one_hot)
    worth = WORST + (BEST - WORST) * (worth - worth.min()) / np.ptp(worth)
    columns = {
        name: (worth[:, None] + generator.normal(scale=noise, size=(len(cells), trials))).astype(np.float32)
        for name in ("cifar10_val_200", "cifar10_test_200")
    }
    weights = np.array([sum(p.numel() for p in CELL_OPERATIONS[name](16).parameters()) for name in names])
    texts = [space.text(space.architecture(cell)) for cell in cells.tolist()]
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
