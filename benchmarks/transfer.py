"""Measure how well cells that were found on a proxy transfer to larger networks, other images and other classes.

    python -m benchmarks.transfer --proxies results --data cifar10.npz --targets other.npz cifar100.npz --out transfer

Cells are searched in the DARTS space, with the same number of steps on each of the proxies that ``benchmarks.proxies``
has written to its folder, and on the real images. These cells and random ones are then trained in the same way on half
of the images of each target, and tested on the other half. Choose targets whose images were not distilled. Results of
a finished row and seed are kept in the output folder and not measured again; a folder with results of other settings,
or of ``benchmarks.proxies``, is refused. The program prints a table; its last line is JSON.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.output import claim, digest
from benchmarks.proxies import CONFIGS, HELD_OUT, fit, folder_name
from lightning_nas.architecture import Architecture
from lightning_nas.data.augmentation import RandomCrop, RandomFlip
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.distill.data_module import DistilledDataModule
from lightning_nas.errors import DataError
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.spaces.artifact import load_architecture
from lightning_nas.spaces.darts.space import DARTSSpace

BATCH = 32
CHANNELS, SEARCH_CELLS, CELLS = 4, 3, 5
REAL, RANDOM = "all real images", "random cell"


class Bench:
    """Settings and data that all rows share.

    Args:
        options: Options of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out = Path(options.out)
        self.settings = {
            "images_sha256": digest(options.data),
            "targets_sha256": {Path(target).stem: digest(target) for target in options.targets},
            "steps": options.steps,
            "train_steps": options.train_steps,
            "channels": options.channels,
        }

    def _data(self, row: str, seed: int) -> tuple[dict[str, Any], int]:
        """Return the data configuration of a search, and the number of images in its train half."""
        real = {"path": self.options.data, "validation_fraction": HELD_OUT}
        changes = [{"class_path": f"lightning_nas.data.augmentation.{name}"} for name in ("RandomCrop", "RandomFlip")]
        if row == REAL:
            images = {"class_path": "lightning_nas.data.images.ArrayDataModule"}
            images["init_args"] = {**real, "augmentations": changes, "seed": seed}  # type: ignore[assignment]
            name, arguments = "HalvesDataModule", {"data": images, "batch_size": BATCH}
            module: Any = HalvesDataModule(ArrayDataModule(**real))
        else:
            proxy = str(Path(self.options.proxies) / folder_name(row, seed))
            proxy += "/proxy.safetensors"
            name = "DistilledDataModule"
            arguments = {"proxy_path": proxy, "batch_size": BATCH, "seed": seed, "augmentations": changes}
            module = DistilledDataModule(proxy)
        module.prepare_data()
        module.setup("fit")
        images = len(module.half("train"))
        if images < BATCH:
            raise DataError(f"A search on {row} has {images} images in its train half; it needs a batch of {BATCH}.")
        return {"class_path": name, "init_args": arguments}, images

    def search(self, row: str, seed: int, folder: Path) -> tuple[Architecture, float, float]:
        """Search, and return the architecture, the seconds of the search and the seconds per step."""
        if row == RANDOM:
            return DARTSSpace().sample(torch.Generator().manual_seed(seed)), 0.0, 0.0
        data, images = self._data(row, seed)
        epochs = max(1, round(self.options.steps / (images // BATCH)))
        model = {"seed": seed, "output_dir": str(folder), "selection_images": 0}
        model["space"] = {"init_args": {"channels": CHANNELS, "cells": SEARCH_CELLS}}
        config = read_yaml(CONFIGS / "search" / "two_scheme.yaml")
        config["data"] = data
        config = merge(config, {"seed_everything": seed, "model": {"init_args": model}})
        config["trainer"] = {"max_epochs": epochs}
        start = time.perf_counter()
        fit("search", config, folder)
        seconds = time.perf_counter() - start
        return load_architecture(folder / "architecture.json"), seconds, seconds / (epochs * (images // BATCH))

    def measure(self, row: str, seed: int) -> dict[str, Any]:
        """Search, then train the found cell on every target."""
        folder = self.out / folder_name(row, seed)
        done = folder / "measured.json"
        if done.is_file():
            found: dict[str, Any] = json.loads(done.read_text())
            return found
        folder.mkdir(parents=True, exist_ok=True)
        architecture, seconds, a_step = self.search(row, seed, folder)
        found = {"row": row, "seed": seed, "search_seconds": seconds, "seconds_a_step": a_step}
        for target in self.options.targets:
            (evaluation,) = self.training(target, seed).evaluate([architecture])
            found[Path(target).stem] = evaluation.objectives["accuracy"]
            found["parameters"] = evaluation.cost["parameters"]
        done.write_text(json.dumps(found))
        print(json.dumps(found), flush=True)
        return found

    def training(self, target: str, seed: int) -> ShortTraining:
        """Create the training of cells on a target."""
        halves = HalvesDataModule(ArrayDataModule(target))
        return ShortTraining(
            halves,
            steps=self.options.train_steps,
            batch_size=64,
            channels=self.options.channels,
            cells=CELLS,
            image_size=16,
            augmentations=[RandomCrop(2), RandomFlip()],
            seed=1000 + seed,
        )


def table(rows: list[dict[str, Any]], targets: list[str]) -> str:
    """Write means and standard deviations over the seeds of every row as Markdown."""
    names = [Path(target).stem for target in targets]
    lines = ["| | seconds of search | parameters | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for name in dict.fromkeys(row["row"] for row in rows):
        own = [row for row in rows if row["row"] == name]

        def spread(key: str, factor: float, digits: int, own: list[dict[str, Any]] = own) -> str:
            values = [row[key] for row in own]
            mean = f"{factor * statistics.mean(values):,.{digits}f}"
            return f"{mean} ± {factor * statistics.stdev(values):,.{digits}f}" if len(values) > 1 else mean

        cells = [name, spread("search_seconds", 1, 0), spread("parameters", 1, 0)]
        cells += [spread(target, 100, 2) + "%" for target in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxies", required=True, help="output folder of benchmarks.proxies")
    parser.add_argument("--data", required=True, help="npz file of the images that were distilled")
    parser.add_argument("--targets", required=True, nargs="+", help="npz files of other images")
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument("--rows", nargs="+", default=["scheme 1", "random subset", REAL, RANDOM])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100, help="steps of every search (default: %(default)s)")
    parser.add_argument("--train_steps", type=int, default=300, help="steps of every training (default: %(default)s)")
    parser.add_argument(
        "--channels",
        type=int,
        default=12,
        help="channels of the trained networks, which have 5 cells; supernets have 4 channels and 3 cells (default: "
        "%(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Measure, print the table, and print the result as JSON."""
    bench = Bench(arguments_of(given))
    torch.set_num_threads(bench.options.threads)
    claim(bench.out, bench.settings)
    rows = [bench.measure(row, seed) for seed in bench.options.seeds for row in bench.options.rows]
    print(table(rows, bench.options.targets))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
