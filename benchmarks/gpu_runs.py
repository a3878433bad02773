"""Searches, trainings and supernets of ``benchmarks.gpu``, which take minutes."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from lightning_nas.cli.forecast import measure as first_steps
from lightning_nas.cli.lightning import run
from lightning_nas.data.augmentation import RandomCrop, RandomFlip
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space

if TYPE_CHECKING:
    from benchmarks.gpu import Bench

Result = dict[str, Any]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def short(bench: "Bench") -> Result:
    """Short trainings of random cells; see ``benchmarks.gpu``."""
    halves = HalvesDataModule(ArrayDataModule(bench.options.data), batch_size=32)
    halves.setup("fit")
    tiny: Any = {"channels": 2, "cells": 2} if bench.options.tiny else {}
    training = ShortTraining(
        halves,
        **tiny,
        steps=bench.sizes.short,
        batch_size=8 if bench.options.tiny else 32,
        online=True,
        augmentations=[RandomCrop(), RandomFlip()],
    )
    training.to(torch.device(bench.device))
    found: Result = {}
    for space in (NASBench201Space(), DARTSSpace()):
        generator = torch.Generator().manual_seed(0)
        cells = [space.sample(generator) for _ in range(2 if bench.options.tiny else 4)]
        training.evaluate(cells[:1])  # chooses kernels
        bench.wait()
        start = time.perf_counter()
        training.evaluate(cells[1:])
        name, took = type(space).__name__, (time.perf_counter() - start) / len(cells[1:])
        found[name] = {"seconds": round(took, 3), "ms_per_step": round(1000 * took / bench.sizes.short, 2)}
        bench.say(f"{name}: {took:.2f} s for {bench.sizes.short} steps")
    return found


def search(bench: "Bench") -> Result:
    """A search, and trainings of its network and of others; see ``benchmarks.gpu``."""
    augmented = {"augmentations": ["RandomCrop", "RandomFlip"]}
    images = {"class_path": "ArrayDataModule", "init_args": {"path": bench.options.data, **augmented}}
    searched = fit(bench, "search/darts.yaml", bench.sizes.search, {"data": {"init_args": {"data": images}}})
    space, cell = DARTSSpace(), load_architecture(searched["task"].outputs["architecture"][0])
    bench.say(f"search: {searched['epochs']} epochs in {searched['seconds']:.0f} s: {space.text(cell)}")
    found: Result = {"genotype": space.text(cell), **{key: searched[key] for key in ("epochs", "seconds", "mb")}}
    random = [space.sample(torch.Generator().manual_seed(seed)) for seed in range(2)]
    candidates: dict[str, Result] = {"found": {"architecture": space.text(cell)}}
    candidates |= {f"random {i}": {"architecture": space.text(each)} for i, each in enumerate(random)}
    candidates["ResNet-20"] = {"architecture": None, "network": {"class_path": "CIFARResNet"}}
    length: Result | None = None
    for name, arguments in candidates.items():
        sizes = {"channels": 16, "cells": 8, "auxiliary_weight": 0.0, "drop_path": 0.0}
        changes = {"model": {"init_args": {**sizes, **arguments}}, "data": {**images, "init_args": {}}}
        changes["data"]["init_args"] = {**images["init_args"], "batch_size": 96}
        trained = fit(bench, "train/darts_cifar10.yaml", bench.sizes.training, changes, length)
        length = trained["length"]  # the same for all
        (tested,) = trained["trainer"].test(trained["task"], trained["data"], verbose=False)
        accuracy = round(100 * tested["test/accuracy"], 2)
        size = sum(p.numel() for p in trained["task"].network.parameters())
        found[name] = {"accuracy": accuracy, "parameters": size, "seconds": round(trained["seconds"], 1)}
        bench.say(
            f"{name}: {accuracy} % after {trained['epochs']} epochs in {trained['seconds']:.0f} s, {size:,} parameters"
        )
    return found


def supernet(bench: "Bench") -> Result:
    """A supernet, and how well it ranks; see ``benchmarks.gpu``."""
    table = {"class_path": "NASBench201Table", "init_args": {"path": f"{bench.options.tables}/nasbench201.npz"}}
    known = {"table": table, "column": "cifar10_test_200", "objective": "test"}
    reference = {"class_path": "TableLookup", "init_args": known}
    images = {"path": bench.options.data, "validation_fraction": 0.1, "augmentations": ["RandomCrop", "RandomFlip"]}
    ranks = {"reference": reference, "ranked": bench.sizes.ranked}
    changes = {
        "model": {"init_args": ranks},
        "data": {"class_path": "ArrayDataModule", "init_args": images},
        "trainer": {"limit_val_batches": 0},
    }
    trained = fit(bench, "supernet/uniform.yaml", bench.sizes.supernet, changes)
    found = {key: trained[key] for key in ("epochs", "seconds", "mb")}
    bench.say(f"trained: {found}")
    trainer = trained["trainer"]
    trainer.limit_val_batches = 1.0
    start = time.perf_counter()
    (values,) = trainer.validate(trained["task"], trained["data"], verbose=False)
    found["scoring_seconds"] = round(time.perf_counter() - start, 1)
    names = ("kendall_tau", "kendall_tau_low", "kendall_tau_high")
    found |= {name: round(values[f"val/{name}"], 3) for name in names}
    bench.say(f"{found}")
    return found


def fit(
    bench: "Bench", config: str, seconds: float, changes: Mapping[str, Any], length: Mapping[str, Any] | None = None
) -> Result:
    """Run a file of ``configs`` for about as many seconds as are given.

    A few steps are measured first, and tell how many epochs to run, so that schedules come to their end.

    Args:
        bench: The measurements.
        config: The file.
        seconds: Seconds of the training.
        changes: What differs from the file.
        length: Arguments of the trainer that say how long to train; None for as long as the seconds allow.
    """
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    overlay = read_yaml(CONFIGS / "trainer" / ("gpu.yaml" if bench.device == "cuda" else "cpu.yaml"))
    whole = merge(merge(read_yaml(CONFIGS / config), overlay), changes)
    quiet = {**QUIET, "default_root_dir": str(folder), "num_sanity_val_steps": 0, "max_epochs": 1000}
    whole = merge(merge(whole, {"trainer": quiet}), bench.sizes.changes.get(config, {}))
    path = folder / "config.yaml"
    arguments = ["fit", "--config", str(path)]
    if length is None:
        path.write_text(yaml.safe_dump(whole))
        measured = first_steps(arguments[1:])
        epoch = measured.seconds * measured.steps
        length = {"max_epochs": max(1, int(seconds / epoch))}
        if 0 < seconds < epoch:
            length["limit_train_batches"] = max(1, int(seconds / measured.seconds))
    whole["trainer"] |= length
    path.write_text(yaml.safe_dump(whole))
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    made = run(arguments)
    took = round(time.perf_counter() - start, 1)
    peak = round(torch.cuda.max_memory_allocated() / 2**20) if bench.device == "cuda" else None
    own = {"task": made.model, "trainer": made.trainer, "data": made.datamodule}
    return {**own, "length": length, "epochs": length["max_epochs"], "seconds": took, "mb": peak}
