"""Every shipped YAML runs, made tiny."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.cli import instantiate_class

from lightning_nas.cli.lightning import check_config, run
from lightning_nas.distill.images import PlainImages
from lightning_nas.distill.proxy import Proxy
from lightning_nas.files.artifacts import write_tensors
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.supernets.artifact import TrainedSupernet
from lightning_nas.tables.synthetic import write_nasbench201
from tests.conftest import ROOT
from tests.helpers import started, wandering_experts

STAGES = sorted(
    p.relative_to(ROOT / "configs")
    for kind in ("distill", "evolve", "predict", "search", "supernet", "train")
    for p in (ROOT / "configs" / kind).glob("*.yaml")
)
TRAINER = {
    "max_epochs": 1,
    "limit_train_batches": 2,
    "limit_test_batches": 1,
    "accelerator": "cpu",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def arrays(path: Path, side: int = 32, per_class: int = 16) -> Path:
    """An npz of three classes of noise."""
    generator = np.random.default_rng(0)
    labels = np.arange(3 * per_class) % 3
    images = generator.integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:9], y_test=labels[:9])
    return path


CORESET = {"images_per_class": 2, "width": 4, "depth": 2, "steps": 2}
SCHEMES: dict[str, dict[str, Any]] = {
    "PlainImages": {"images_per_class": 2},
    "RandomSubset": {"images_per_class": 2},
    "Noise": {"images_per_class": 2},
    "Herding": CORESET,
    "KCenter": CORESET,
    "HallucinatedBases": {"bases_per_class": 2},
    "RelationMappings": {"bases": 8, "mappings": 4},
}
"""What makes every scheme small."""


WRITTEN = {"gm_nas_split": "split.json", "quality": None, "experts": "experts.safetensors", "fidelity": "fidelity.json"}
"""What a stage leaves, where that is not its folder's kind of artifact."""


def small_proxy(folder: Path) -> Path:
    """A proxy of the three classes of ``arrays``."""
    images, labels = torch.randn(12, 3, 32, 32), torch.arange(12) % 3
    scheme = started(PlainImages(2), images, labels)
    return Proxy(scheme, ["0", "1", "2"], [0.5] * 3, [0.2] * 3, {}).save(folder / "small" / "proxy.safetensors")


def check_tiny(arguments: dict[str, Any], images: dict[str, Any], proxy: str) -> None:
    """The check of a proxy with trainings of two steps."""
    held_out = merge(images, {"init_args": {"validation_fraction": 0.25}})
    arguments |= {"write_to": proxy, "threshold": None}
    for part, data in (("proxy", {"proxy_path": proxy, "held_out": held_out}), ("reference", {"data": images})):
        short = {"steps": 2, "batch_size": 6, "channels": 4, "cells": 3, "data": {"init_args": data}}
        arguments[part] = merge(arguments[part], {"init_args": short})


SMALL_POPULATIONS: dict[str, dict[str, Any]] = {
    "PopulationEvolution": {"parents": 2},
    "NEvoNAS": {"population_size": 2},
    "PEvoNAS": {"population_size": 4, "tournament_size": 2},
}
"""What makes a search of a supernet small."""


def small_supernet(config: dict[str, Any], folder: Path) -> None:
    """The same search on a small supernet of two classes, or of those of the data."""
    arguments = config["model"]["init_args"]
    space = NASBench201Space(channels=4, cells_per_stage=1)
    given = arguments["evaluator"]["init_args"]
    classes = 2 if given.get("new_classes") else 3
    network = space.supernet(num_classes=classes, image_shape=(3, 32, 32))
    path = TrainedSupernet(network, space, (3, 32, 32), classes, {}).save(folder / "given" / "supernet.safetensors")
    images = {"path": str(arrays(folder / "tiny.npz")), "validation_fraction": 0.25}
    images["augmentations"] = given["data"]["init_args"]["augmentations"]
    data = {"class_path": "lightning_nas.data.images.ArrayDataModule", "init_args": images}
    given |= {"supernet_path": str(path), "data": data, "calibration_images": 8}
    small = SMALL_POPULATIONS[arguments["strategy"]["class_path"].split(".")[-1]]
    arguments["strategy"] = merge(arguments["strategy"], {"init_args": small})
    arguments |= {"budget": 8, "generation_size": 4}
    if "shifting" in arguments:
        arguments["shifting"] = merge(arguments["shifting"], {"init_args": {"steps": 1, "batch_size": 4}})


def small_refinement(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Trainings of a step or two, after a search that is made up."""
    arguments = config["model"]["init_args"]
    space = NASBench201Space()
    start = space.largest().save(folder / "given" / "architecture.json")
    factors = {"cell": torch.full((1, space.edges, len(space.operations)), 0.2)}
    alphas = [str(write_tensors(folder / "given" / "alphas.safetensors", factors))]
    strategy, evaluator = arguments["strategy"]["init_args"], arguments["evaluator"]
    strategy["neighbours"] = 2
    if "starts" in strategy:
        strategy["starts"] = [str(start)]
        strategy["order"]["init_args"]["alphas"] = alphas
    while "evaluator" in evaluator["init_args"]:
        evaluator = evaluator["init_args"]["evaluator"]
    data = {"init_args": {"data": {"class_path": "lightning_nas.data.images.DigitsDataModule"}}}
    evaluator["init_args"] |= {"steps": [1, 2], "channels": 2, "cells": 1, "image_size": 8}
    evaluator["init_args"]["data"] = merge(evaluator["init_args"]["data"], data)
    arguments["budget"] = 28
    return config


def tiny_proposals(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same strategy on made-up results, or on a small supernet."""
    trainer = {"trainer": {k: v for k, v in TRAINER.items() if not k.startswith("limit")}}
    if config["model"]["init_args"]["evaluator"]["class_path"].endswith("SupernetEvaluator"):
        small_supernet(config, folder)
        return merge(config, trainer)
    if config["model"]["init_args"]["strategy"]["class_path"].endswith("Refine"):
        return merge(small_refinement(config, folder), trainer)
    arguments = {**config["model"]["init_args"], "budget": 8}
    tables = {
        "NASBench101Table": {"class_path": "tests.helpers.EveryNASBench101Cell"},
        "NASBench201Table": {"init_args": {"path": str(write_nasbench201(folder / "nasbench201.npz"))}},
    }
    model: dict[str, Any] = {}
    for part in {"evaluator", "final_evaluator"} & arguments.keys():
        given = arguments[part]["init_args"]
        published = given.get("evaluator", {"init_args": given})["init_args"]["table"]["class_path"].split(".")[-1]
        looked_up = {"init_args": {"table": tables[published]}}
        small = {"evaluator": looked_up, "channels": 2, "cells": 1, "image_shape": [3, 8, 8]}
        model[part] = {"init_args": small} if "evaluator" in given else looked_up
    if "samples" in arguments:
        arguments |= {"samples": 6, "unlabelled": 10}
        config["data"]["init_args"] |= {"steps": 2}
    config["model"]["init_args"] = merge(arguments, model)
    return merge(config, trainer)


def searched_supernet(arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Arguments that select from a small supernet, a step an epoch."""
    space = instantiate_class((), arguments["space"])
    network = space.supernet(num_classes=3, image_shape=(3, 32, 32))
    alphas = {name: torch.zeros(space.edges, len(space.operations)).tolist() for name in space.cell_types}
    made = TrainedSupernet(network, space, (3, 32, 32), 3, {"alphas": alphas, "edge_alphas": {}})
    path = made.save(folder / "given" / "supernet.safetensors")
    return {**arguments, "supernet_path": str(path), "epochs_between": 1}


def tiny(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same classes on 48 images, with small networks."""
    images = {
        "class_path": "lightning_nas.data.images.ArrayDataModule",
        "init_args": {"path": str(arrays(folder / "tiny.npz")), "batch_size": 8},
    }
    data = config["data"]
    if data["class_path"].endswith("DummyDataModule"):
        return tiny_proposals(config, folder)
    if "count" in data["init_args"]:  # architectures
        config["data"] = merge(data, {"init_args": {"count": 3}})
        check_tiny(config["model"]["init_args"], images, str(small_proxy(folder)))
    elif "data" in data["init_args"]:
        kept = data["init_args"]["data"]["init_args"].get("augmentations")
        images["init_args"]["augmentations"] = kept  # type: ignore[index]
        own = {"batch_size": 8} if "batch_size" in data["init_args"] else {"images_per_class": 4, "steps_per_epoch": 2}
        config["data"] = {**data, "init_args": {**own, "data": images}}
    elif "proxy_path" in data["init_args"]:
        own = {"proxy_path": str(small_proxy(folder)), "batch_size": 6, "test": images}
        config["data"] = merge(data, {"init_args": own})
    else:
        kept = {"augmentations": data["init_args"].get("augmentations")}
        if "validation_fraction" in data["init_args"]:
            kept["validation_fraction"] = 0.25
        config["data"] = merge(images, {"init_args": kept})
    arguments, trainer = config["model"]["init_args"], {**TRAINER, "default_root_dir": str(folder)}
    if "space" in arguments:
        small: dict[str, Any] = {
            "NASBench201Space": {"channels": 4, "cells_per_stage": 1},
            "SinglePathSpace": {"widths": [32, 64], "depths": [1, 1], "strides": [2, 2], "last": 8},
            "DARTSSpace": {"channels": 4, "cells": 3, "nodes": 2},
        }[arguments["space"]["class_path"].split(".")[-1]]
        if "allowed" in arguments["space"]["init_args"]:  # edge by edge
            small.pop("nodes")
        arguments = merge(arguments, {"space": {"init_args": small}})
        if "hypergradient" in arguments:
            arguments |= {"warmup_epochs": 0, "selection_images": 0}
        if config["model"]["class_path"].endswith("SplitTask"):
            searched = searched_supernet({key: arguments[key] for key in ("space",)}, folder)
            arguments["supernet_path"], trainer["limit_train_batches"] = searched["supernet_path"], 1
        if "epochs_between" in arguments:
            arguments, trainer["max_epochs"] = searched_supernet(arguments, folder), 6
    for callback in config["trainer"].get("callbacks", []):
        if callback["class_path"].endswith("PDARTSPhases"):
            callback["init_args"]["cells"], trainer["max_epochs"] = [3, 4, 5], 3
        if callback["class_path"].endswith("FreezeArchitecture"):
            callback["init_args"]["epoch"], trainer["max_epochs"] = 1, 2
    if "scheme" in arguments:
        arguments = merge(
            arguments, {"scheme": {"init_args": SCHEMES[arguments["scheme"]["class_path"].split(".")[-1]]}}
        )
    if "epochs_per_expert" in arguments:
        arguments |= {"experts": 1, "epochs_per_expert": 1, "width": 4, "depth": 2}
    if "experts_path" in arguments.get("matcher", {}).get("init_args", {}):
        experts = str(wandering_experts((3, 32, 32), folder / "given" / "experts.safetensors"))
        short = {"experts_path": experts, "student_steps": 2, "expert_epochs": 1, "max_start_epoch": 1}
        arguments["matcher"]["init_args"] |= short
    for part in [arguments.get("matcher"), arguments.get("network"), *arguments.get("regularizers", [])]:
        own = part.get("init_args", {}) if isinstance(part, dict) else {}
        if isinstance(part, dict) and ".distill." in part["class_path"] and "experts_path" not in own:
            part["init_args"] = {**own, "width": 4, "depth": 2}
    if arguments.get("architecture"):
        arguments = merge(arguments, {"channels": 4, "cells": 3})
        if not arguments["architecture"].startswith("Genotype("):
            path = DARTSSpace().sample(torch.Generator().manual_seed(0)).save(folder / "architecture.json")
            arguments["architecture"] = str(path)
    config["model"]["init_args"] = arguments
    return merge(config, {"trainer": trainer})


@pytest.mark.parametrize("name", STAGES, ids=str)
def test_every_stage_fits(name: Path, tmp_path: Path, configs: Path) -> None:
    config = tiny(read_yaml(configs / name), tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    cli = run(["fit", "--config", "tiny.yaml"])
    found = dict.fromkeys(("search", "evolve", "predict"), "architecture.json")
    of_kind = {"distill": "proxy.safetensors", "supernet": "supernet.safetensors", **found}.get(name.parts[0])
    expected = WRITTEN.get(name.stem, of_kind)
    if expected:
        assert list(tmp_path.glob(f"lightning_logs/**/{expected}"))
    else:
        run(["test", "--config", "tiny.yaml", "--ckpt_path", cli.trainer.checkpoint_callback.best_model_path])  # type: ignore[union-attr]
    # what a run writes about itself makes the same run again
    (written,) = tmp_path.glob("lightning_logs/version_0/cli_config.yaml")
    check_config(written)


@pytest.mark.parametrize(
    "overlay",
    sorted(p.relative_to(ROOT) for k in ("trainer", "logger") for p in (ROOT / "configs" / k).glob("*.yaml")),
    ids=str,
)
def test_overlays_fit_on_a_stage(overlay: Path, tmp_path: Path, configs: Path) -> None:
    both = merge(read_yaml(configs / "search" / "darts.yaml"), read_yaml(ROOT / overlay))
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
    check_config(tmp_path / "both.yaml")
