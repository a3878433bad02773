"""Shipped configurations made tiny: overlays in ``tests/conf``, and the files that those refer to."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.proxy import Proxy
from lightning_nas.files.artifacts import write_tensors
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.spaces.base import SupernetSpace
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.operations import OPERATIONS
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.tables.synthetic import write_nasbench201
from tests.conftest import ROOT
from tests.helpers import started, wandering_experts

CONFIGS = ROOT / "configs"
OVERLAYS = ROOT / "tests" / "conf"
SHAPE = (3, 16, 16)
"""Of the images that tiny configurations read."""


def arrays(path: Path, side: int = 32, per_class: int = 16) -> Path:
    """An npz of three classes of noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(3 * per_class) % 3
    images = generator.integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    return path


def overlay(name: str | Path) -> dict[str, Any]:
    """What makes a shipped configuration tiny: that of all, that of its folder, its own.

    Args:
        name: Path below ``configs``.
    """
    name = Path(name)
    own = [path for path in (OVERLAYS / f"{name.parts[0]}.yaml", OVERLAYS / name) if path.is_file()]
    if not own:
        raise FileNotFoundError(
            f"configs/{name} has no overlay that makes it tiny for the tests. Write tests/conf/{name.parts[0]}.yaml "
            f"for its folder, or tests/conf/{name} for it alone."
        )
    merged: dict[str, Any] = {}
    for path in (OVERLAYS / "common.yaml", *own):
        merged = merge(merged, read_yaml(path))
    return merged


def given(folder: Path) -> Path:
    """Write the files that overlays refer to.

    Args:
        folder: Where they are read.

    Returns:
        The folder ``given`` inside of it.
    """
    return Path(shutil.copytree(_given(), folder / "given", dirs_exist_ok=True))


def tiny(name: str | Path, folder: Path) -> dict[str, Any]:
    """A shipped configuration with its overlay; what it reads is written to ``folder/given``.

    Args:
        name: Path below ``configs``.
        folder: Where it runs.
    """
    merged = merge(read_yaml(CONFIGS / name), overlay(name))
    places = {"folder": str(folder), "given": str(given(folder))}
    resolved = OmegaConf.to_container(OmegaConf.create({**merged, **places}), resolve=True)
    return {key: value for key, value in resolved.items() if key not in places}  # type: ignore[union-attr, misc]


_FOLDER = tempfile.TemporaryDirectory()


@cache
def _given() -> Path:
    """The files that overlays refer to, made once, without a trace in the global generator."""
    folder = Path(_FOLDER.name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arrays(folder / "images.npz", SHAPE[1])
        images, labels = torch.randn(12, *SHAPE), torch.arange(12) % 3
        scheme = started(PlainImages(2), images, labels)
        Proxy(scheme, ["0", "1", "2"], [0.5] * 3, [0.2] * 3, {}).save(folder / "proxy.safetensors")
        wandering_experts(SHAPE, folder / "experts.safetensors")
        write_nasbench201(folder / "nasbench201.npz")
        DARTSSpace().sample(torch.Generator().manual_seed(0)).save(folder / "architecture.json")
        cells = NASBench201Space(channels=4, cells_per_stage=1)
        NASBench201Space().largest().save(folder / "cell.json")
        factors = {"cell": torch.full((1, cells.edges, len(cells.operations)), 0.2)}
        write_tensors(folder / "alphas.safetensors", factors)
        _supernet(cells, 3, {}, folder / "supernet.safetensors")
        _supernet(cells, 2, {}, folder / "two_classes.safetensors")
        some = DARTSSpace(channels=4, cells=3, nodes=2, operations=[name for name in OPERATIONS if name != "none"])
        for name, space in (("darts", some), ("nasbench201", cells)):
            alphas = {kind: torch.zeros(space.edges, len(space.operations)).tolist() for kind in space.cell_types}
            info = {"alphas": alphas, "edge_alphas": {}}
            _supernet(space, 3, info, folder / f"searched_{name}.safetensors")
    return folder


def _supernet(space: SupernetSpace, classes: int, info: dict[str, Any], path: Path) -> None:
    network = space.supernet(num_classes=classes, image_shape=SHAPE)
    TrainedSupernet(network, space, SHAPE, classes, info).save(path)
