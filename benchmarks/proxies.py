"""Compare proxies of equal stored bytes by the accuracy that they give a ConvNet and by how they rank architectures.

    python -m benchmarks.proxies --data cifar10.npz --table nasbench201.npz --out results

Every row is made with a file of ``configs/distill`` in a size that suits a CPU; ``benchmarks/proxy_rows.py`` has them.
Rows that end with a size are compared at equal bytes: each of their schemes has as many images as fit into 77 kB, 350
kB or 1.23 MB in so many bits, of images averaged down to 16x16, and their networks are tested on such images. ``all
images`` are all that may be distilled. The other rows have images of 32 pixels in float32, 10 per class or the same
number of bytes. A tenth of the training images is not distilled: it scores networks that are trained on a proxy.
Results of a finished row and seed are kept in the output folder and not measured again; a folder with results of other
settings or other images is refused.

The program prints a table; its last line is JSON. ``rows`` has one object per scheme: ``scheme``; ``bytes`` of the
file; ``images``; means over the seeds of ``accuracy`` (a fraction), of ``tau`` (by search space) and of
CPU ``seconds`` of the distillation, with those of the network of a selection; and the list of ``seeds``.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.output import claim, digest
from benchmarks.proxy_rows import SIDE, rows_of
from lightning_nas.architecture import Architecture
from lightning_nas.cli.lightning import run
from lightning_nas.data.augmentation import Augmentation, RandomCrop, RandomFlip
from lightning_nas.data.halves import HalvesDataModule
from lightning_nas.data.images import ArrayDataModule
from lightning_nas.distill.data_module import DistilledDataModule
from lightning_nas.distill.proxy import Proxy
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.short_training import ShortTraining
from lightning_nas.metrics.ranking import bootstrap_interval, kendall_tau, regret
from lightning_nas.pipeline.config import merge, read_yaml
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.nasbench201 import NASBench201Table

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
HELD_OUT = 0.1
SPACES = ("nasbench201", "darts")


def fit(name: str, config: dict[str, Any], folder: Path, command: str = "fit") -> Any:
    """Run ``lightning-nas fit`` with a configuration and without logs, and return its command line object."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    whole = merge(config, {"trainer": {**quiet, "devices": 1, "default_root_dir": str(folder)}})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(whole))
    return run([command, "--config", str(path), "--run_folder.overwrite", "true"])


class Bench:
    """Settings and data that all rows share.

    Args:
        options: Options of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out = Path(options.out)
        self.images: dict[str, Any] = {"path": options.data, "validation_fraction": HELD_OUT}
        data = self.real()
        data.setup("fit")
        most = int(torch.bincount(data.train_set.labels).min())
        self.rows = rows_of(options.steps, options.width, most)
        self.chosen: list[str] = options.rows or list(self.rows)
        for row in self.chosen:
            if row not in self.rows:
                raise ConfigError(
                    f"{row!r} needs more images of every class than the {most} that may be distilled. Choose other "
                    "rows, or more data."
                )
        self.settings: dict[str, Any] = {
            "images_sha256": digest(options.data),
            "steps": options.steps,
            "quality_steps": options.quality_steps,
            "width": options.width,
            "rank_steps": options.rank_steps,
            "reference_steps": options.reference_steps,
            "candidates": list(options.candidates),
            "spaces": list(options.spaces),
        }

    def real(self, side: int | None = None) -> ArrayDataModule:
        """Load the real images, with those that are not distilled as the validation set."""
        return ArrayDataModule(**self.images, image_size=side)

    # -- one row ------------------------------------------------------------------------------------------------------

    def measure(self, row: str, seed: int) -> dict[str, Any]:
        """Distill a proxy and measure its properties."""
        folder = self.out / folder_name(row, seed)
        done = folder / "measured.json"
        if done.is_file():
            found: dict[str, Any] = json.loads(done.read_text())
            return found
        folder.mkdir(parents=True, exist_ok=True)
        seconds = self._distill(row, seed, folder)
        proxy = Proxy.load(folder / "proxy.safetensors")
        found = {
            "row": row,
            "seed": seed,
            "distill_seconds": seconds,
            "stored_bytes": proxy.stored_bytes,
            "images": len(proxy.labels),
            "accuracy": self._quality(row, seed, folder),
        }
        halves = DistilledDataModule(str(folder / "proxy.safetensors"), held_out=self.real(self.rows[row].side))
        for name, (space, make) in self.spaces().items():
            start = time.perf_counter()
            scores = self.scores(space, make(halves, seed))
            found[name] = self.fidelity(scores, self.reference(name))
            found[name]["seconds"] = time.perf_counter() - start
        done.write_text(json.dumps(found))
        print(json.dumps(found), flush=True)
        return found

    def _distill(self, row: str, seed: int, folder: Path) -> float:
        made = self.rows[row]
        config = read_yaml(CONFIGS / "distill" / f"{made.config}.yaml")
        config["data"]["init_args"]["data"] = self._configured(made.side, seed=seed)
        config = merge(merge(config, made.changes), {"seed_everything": seed})
        config["model"]["init_args"] |= {"seed": seed, "output_dir": str(folder), "bits": made.bits}
        start = time.process_time()
        fit("distill", config, folder)
        return time.process_time() - start

    def _configured(self, side: int | None, **more: Any) -> dict[str, Any]:
        """The configuration of the real images."""
        arguments = {**self.images, "image_size": side, **more}
        return {"class_path": "lightning_nas.data.images.ArrayDataModule", "init_args": arguments}

    def _quality(self, row: str, seed: int, folder: Path) -> float:
        config = read_yaml(CONFIGS / "distill" / "quality.yaml")
        proxy = len(Proxy.load(folder / "proxy.safetensors").labels)
        batch = min(100, proxy)
        data = {
            "proxy_path": str(folder / "proxy.safetensors"),
            "batch_size": batch,
            "seed": seed,
            "test": self._configured(self.rows[row].side),
        }
        config = merge(config, {"seed_everything": seed, "data": {"init_args": data}})
        config["model"]["init_args"]["network"]["init_args"] = {"width": self.options.width, "depth": 3}
        config["trainer"]["max_epochs"] = max(1, round(self.options.quality_steps / (proxy // batch)))
        made = fit("quality", config, folder)
        tested: Any = made.trainer.test(made.model, made.datamodule, verbose=False)
        return float(tested[0]["test/accuracy"])

    # -- ranks --------------------------------------------------------------------------------------------------------

    def spaces(self) -> dict[str, tuple[SearchSpace, Callable[[HalvesDataModule, int], ShortTraining]]]:
        """Return the search spaces, and functions that create short trainings of their architectures."""
        changes: list[Augmentation] = [RandomCrop(2), RandomFlip()]

        def make(cells: int, channels: int, batch: int) -> Callable[[HalvesDataModule, int], ShortTraining]:
            def training(halves: HalvesDataModule, seed: int) -> ShortTraining:
                return ShortTraining(
                    halves,
                    steps=self.options.rank_steps,
                    batch_size=batch,
                    channels=channels,
                    cells=cells,
                    image_size=SIDE,
                    augmentations=changes,
                    seed=seed,
                )

            return training

        every = {
            "nasbench201": (NASBench201Space(), make(1, 8, 64)),
            "darts": (DARTSSpace(), make(5, 4, 32)),
        }
        return {name: every[name] for name in self.options.spaces}

    def candidates(self, space: SearchSpace) -> list[Architecture]:
        """Draw distinct architectures uniformly, the same for all rows and seeds."""
        generator, found = torch.Generator().manual_seed(0), dict[str, Architecture]()
        count = self.options.candidates[0 if isinstance(space, NASBench201Space) else 1]
        while len(found) < count:
            drawn = space.sample(generator)
            found.setdefault(space.key(drawn), drawn)
        return list(found.values())

    def scores(self, space: SearchSpace, training: ShortTraining) -> list[float]:
        """Score architectures by the negative loss on held-out real images; higher is better."""
        return [-e.objectives["loss"] for e in training.evaluate(self.candidates(space))]

    def reference(self, name: str) -> list[float]:
        """Return reference accuracies, from the table or from longer trainings on real images."""
        path = self.out / f"truth_{name}.json"
        if not path.is_file():
            space = self.spaces()[name][0]
            candidates = self.candidates(space)
            if isinstance(space, NASBench201Space):
                table = NASBench201Table(self.options.table)
                values = [table.lookup(a, "cifar10_test_200") / 100 for a in candidates]
            else:
                long = self.long_training()
                values = [e.objectives["accuracy"] for e in long.evaluate(candidates)]
            path.write_text(json.dumps(values))
        found: list[float] = json.loads(path.read_text())
        return found

    def long_training(self) -> ShortTraining:
        """Create the training on real images that gives reference accuracies in the DARTS space."""
        return ShortTraining(
            HalvesDataModule(self.real(), search_fraction=0.2),
            steps=self.options.reference_steps,
            batch_size=64,
            channels=4,
            cells=5,
            image_size=SIDE,
            augmentations=[RandomFlip()],
            seed=99,
        )

    def fidelity(self, scores: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
        """Compute Kendall's tau-b with its interval, and the regret of the first choice."""
        low, high, _ = bootstrap_interval(kendall_tau, scores, reference, samples=self.options.resamples)
        return {"tau": kendall_tau(scores, reference), "low": low, "high": high, "regret": regret(scores, reference)}


def folder_name(row: str, seed: int) -> str:
    """Name of the folder of a row and a seed."""
    return f"{row.replace(' ', '_').replace(',', '')}_{seed}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write means and standard deviations over the seeds of every row as Markdown."""
    lines = [
        "| | stored bytes | images | ConvNet accuracy | tau, NAS-Bench-201 | tau, DARTS | regret, NAS-Bench-201 "
        "| regret, DARTS | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["row"] for row in rows):
        own = [row for row in rows if row["row"] == name]

        def spread(values: list[float], factor: float = 1.0, digits: int = 2) -> str:
            mean = f"{factor * statistics.mean(values):.{digits}f}"
            return f"{mean} ± {factor * statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean

        cells = [
            name,
            f"{own[0]['stored_bytes']:,}",
            f"{own[0]['images']:,}",
            spread([row["accuracy"] for row in own], 100, 1) + "%",
            *(spread([row[space]["tau"] for row in own]) if space in own[0] else "-" for space in SPACES),
            *(spread([row[space]["regret"] for row in own], 100) if space in own[0] else "-" for space in SPACES),
            spread([row["distill_seconds"] for row in own], digits=0),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds of every row, for the line of JSON."""
    found = []
    for name in dict.fromkeys(row["row"] for row in rows):
        own = [row for row in rows if row["row"] == name]
        found.append(
            {
                "scheme": name,
                "bytes": own[0]["stored_bytes"],
                "images": own[0]["images"],
                "accuracy": statistics.mean(row["accuracy"] for row in own),
                "tau": {
                    space: statistics.mean(row[space]["tau"] for row in own) for space in SPACES if space in own[0]
                },
                "seconds": statistics.mean(row["distill_seconds"] for row in own),
                "seeds": [row["seed"] for row in own],
            }
        )
    return found


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="npz file of CIFAR-10: x_train, y_train, x_test, y_test")
    parser.add_argument("--table", required=True, help="npz file of the results of NAS-Bench-201")
    parser.add_argument("--out", required=True, help="output folder")
    known = list(rows_of(1, 1, sys.maxsize))
    parser.add_argument("--rows", nargs="+", choices=known, help="by default all rows that the data have images for")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--steps", type=int, default=300, help="steps of distribution matching; gradient matching takes a fifth"
    )
    parser.add_argument("--quality_steps", type=int, default=400, help="steps of the training of the ConvNet")
    parser.add_argument("--width", type=int, default=64, help="channels of all ConvNets")
    parser.add_argument(
        "--candidates",
        type=int,
        nargs=2,
        default=[64, 32],
        help="ranked architectures in NAS-Bench-201 and DARTS",
    )
    parser.add_argument("--rank_steps", type=int, default=60, help="steps of the trainings that are ranked")
    parser.add_argument("--reference_steps", type=int, default=200, help="steps of the reference trainings in DARTS")
    parser.add_argument("--resamples", type=int, default=1000, help="resamples of architectures for an interval of tau")
    parser.add_argument("--spaces", nargs="*", choices=SPACES, default=list(SPACES))
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Measure, print the table, and print the result as JSON."""
    bench = Bench(arguments_of(given))
    torch.set_num_threads(bench.options.threads)
    claim(bench.out, bench.settings)
    rows = [bench.measure(row, seed) for seed in bench.options.seeds for row in bench.chosen]
    print(table(rows))
    print(json.dumps({"rows": summary(rows)}))


if __name__ == "__main__":
    main()
