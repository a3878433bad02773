"""Accuracies of cells of the DARTS space after trainings of our own, kept in a file.

    OMP_NUM_THREADS=1 python -m benchmarks.darts_truth --images FILE.npz --truth benchmarks/data/darts_truth.json

Networks of 12 channels and 8 cells are trained for 1,500 steps on 20,000 images averaged down to 16x16, which takes
about six minutes of one core each. The cells are the largest one, published ones, 20 random ones, and those of
``--cell``, such as the result of a search. ``accuracy`` and ``loss`` are those of 5,000 other training images; the
accuracy on the test images stands beside them, and nothing should be chosen by it. Statistics of batch norm are those
of the batch, as in all short trainings.

The file has the recipe and one row per training. It is written after every training, so that a run that was killed goes
on with what is missing; a file with another recipe is refused. The last line is JSON. FILE.npz has the arrays
``x_train``, ``y_train``, ``x_test`` and ``y_test`` of CIFAR-10, with at least 25,000 training images.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas.architecture import Architecture
from lightning_nas.data import ArrayDataModule, HalvesDataModule, RandomCrop, RandomFlip
from lightning_nas.errors import ArtifactError, DataError
from lightning_nas.evaluation import ShortTraining
from lightning_nas.files.artifacts import read_json, write_json
from lightning_nas.metrics.ranking import kendall_tau
from lightning_nas.spaces import DARTSSpace

PUBLISHED = (
    # https://github.com/quark0/darts/blob/master/cnn/genotypes.py
    "DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), "
    "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])",
    "DARTS_V1 = Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), "
    "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])",
    # https://github.com/chenxin061/pdarts/blob/master/genotypes.py
    "PDARTS = Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2), "
    "('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], reduce_concat=[2, 3, 4, 5])",
)
CELLS_SEED = 2024
"""Seed of the random cells."""
REPAIR = "Write it with python -m benchmarks.darts_truth."


def named_cells(random: int, given: list[str]) -> dict[str, Architecture]:
    """The cells in the order of their trainings: one random cell after each of the others.

    Args:
        random: Number of random cells.
        given: Further cells, each ``name = Genotype(...)``.
    """
    space, generator = DARTSSpace(), torch.Generator().manual_seed(CELLS_SEED)
    named = {"largest": space.largest()}
    for text in (*given, *PUBLISHED):
        named[text.partition("=")[0].strip()] = DARTSSpace.parse(text)
    drawn = {f"random_{i}": space.sample(generator) for i in range(random)}
    mixed: dict[str, Architecture] = {}
    for i in range(max(len(named), len(drawn))):
        for group in (named, drawn):
            mixed.update(list(group.items())[i : i + 1])
    return mixed


class Truth:
    """Trainings with one recipe, and the file of their results.

    Args:
        options: Options of the command line.

    Raises:
        ArtifactError: The file has results of another recipe.
        DataError: There are too few images.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.path: Path = options.truth
        data = ArrayDataModule(
            path=str(options.images),
            train_limit=options.train + options.validation,
            image_size=options.size,
            batch_size=500,  # of the test images, about as many as a batch of ShortTraining.score has
        )
        fraction = options.validation / (options.train + options.validation)
        self.halves = HalvesDataModule(data, search_fraction=fraction)
        self.halves.setup("fit")
        sizes = [len(self.halves.half(name)) for name in ("train", "search")]
        if sizes != [options.train, options.validation]:
            raise DataError(
                f"{options.images} gives {sizes[0]} images to train on and {sizes[1]} others; expected {options.train} "
                f"and {options.validation}. Use a file with more images, or ask for fewer."
            )
        data.setup("test")
        self.data = data
        augmentations = [RandomCrop(padding=2), RandomFlip()]
        self.training = ShortTraining(
            self.halves,
            steps=options.steps,
            batch_size=options.batch_size,
            channels=options.channels,
            cells=options.cells,
            augmentations=augmentations,
        )
        images, labels = self.halves.fixed_batch("train", options.train, 0)
        digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:16]
        self.recipe: dict[str, Any] = {
            "space": "DARTSSpace",
            "train_images": options.train,
            "validation_images": options.validation,
            "images_sha256": digest,
            "image_size": options.size,
            "augmentations": "RandomCrop(padding=2), RandomFlip()",
            "channels": options.channels,
            "cells": options.cells,
            "steps": options.steps,
            "batch_size": options.batch_size,
            "learning_rate": self.training.learning_rate,
            "optimizer": "that of ShortTraining",
        }
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            content = read_json(self.path, repair=REPAIR)
            different = [key for key, value in self.recipe.items() if content["recipe"].get(key) != value]
            if different:
                here, there = ({key: each.get(key) for key in different} for each in (self.recipe, content["recipe"]))
                raise ArtifactError(
                    f"{self.path} has results of another recipe: {there}, not {here}. Name another file, or give the "
                    "options of its recipe."
                )
            self.rows = content["rows"]

    def train(self, name: str, cell: Architecture, seed: int) -> dict[str, Any]:
        """The row of a training, from the file if it is there.

        Args:
            name: What the cell is called in the table.
            cell: The cell.
            seed: Seed of weights, batches and augmentations.
        """
        text = DARTSSpace().text(cell)
        for row in self.rows:
            if row["genotype"] == text and row["seed"] == seed:
                return row
        network = self.training.train(cell, seed)
        scores = self.training.score(network)
        row = {
            "name": name,
            "seed": seed,
            "accuracy": round(100 * scores["accuracy"], 2),
            "loss": round(scores["loss"], 4),
            "test_accuracy": round(100 * self._tested(network), 2),
            "parameters": sum(weight.numel() for weight in network.parameters()),
            "genotype": text,
        }
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"recipe": self.recipe, "rows": self.rows})
        return row

    def _tested(self, network: nn.Module) -> float:
        """The share of the test images that a network gets right."""
        hits = total = 0
        with torch.no_grad():
            for batch in self.data.test_dataloader():
                images, labels = self.data.prepare(batch)
                hits += int((network(images).argmax(1) == labels).sum())
                total += len(labels)
        return hits / total


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="npz file with x_train, y_train, x_test, y_test")
    parser.add_argument("--truth", required=True, type=Path, help="JSON file of the results")
    parser.add_argument("--random", type=int, default=20, help="random cells")
    parser.add_argument("--cell", nargs="*", default=[], help="further cells, each 'NAME = Genotype(...)'")
    parser.add_argument("--seeds", type=int, default=1, help="trainings per cell")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=12)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--size", type=int, default=16, help="side in pixels that images are averaged to")
    parser.add_argument("--train", type=int, default=20_000, help="images to train on")
    parser.add_argument("--validation", type=int, default=5_000, help="other training images, for the accuracy")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Train what is missing, print it, and end with a line of JSON."""
    options = arguments_of(given)
    torch.set_num_threads(1)
    truth = Truth(options)
    rows = []
    for seed in range(options.seeds):
        for name, cell in named_cells(options.random, options.cell).items():
            row = truth.train(name, cell, seed)
            rows.append(row)
            print(f"{name} seed {seed}: {row['accuracy']:.2f} %, {row['parameters']:,} parameters", flush=True)
    random = [row["accuracy"] for row in rows if row["name"].startswith("random")]
    line = {
        "trainings": len(rows),
        "random_mean": round(sum(random) / len(random), 2) if random else None,
        "random_best": max(random, default=None),
        "tau_of_parameters": round(
            kendall_tau([row["parameters"] for row in rows], [row["accuracy"] for row in rows]), 3
        ),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
