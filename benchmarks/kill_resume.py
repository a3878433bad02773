"""Kill a stage at a random time, resume it from its last checkpoint, and compare the result with an uninterrupted run.

    python -m benchmarks.kill_resume --kills 20

The stages are small versions of those of ``configs/pipeline/digits.yaml`` (distillation, search, training with drop
path), on the CPU, with shuffling loaders and augmentations, and with a checkpoint after every epoch and every third
batch. Each stage first runs once without interruption. Then the stages take turns: a process is killed with SIGKILL at
a time drawn uniformly from the duration of the uninterrupted run, and ``fit`` resumes from its last checkpoint, or
starts again if there is none. Both runs must be equal in every bit: weights, alphas, optimizers, schedulers, the
factors of every epoch, the means of the last epoch, and all artifacts. Processes are forked, so that they do not have
to import everything again. The last line is JSON.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import lightning_nas.cli.lightning  # noqa: F401  # imported once, before processes are forked
from lightning_nas.__main__ import main as command
from lightning_nas.pipeline.config import parse
from lightning_nas.pipeline.stages import resolve

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "pipeline" / "digits.yaml"
SMALL = {
    "trainer.callbacks": "null",
    "trainer.enable_progress_bar": "false",
    "trainer.limit_train_batches": 8,
    "stages.distill.trainer.max_epochs": 4,
    "stages.distill.model.init_args.scheme.init_args.images_per_class": 16,
    "stages.search.data.init_args.batch_size": 10,
    "stages.search.data.init_args.augmentations": "[RandomFlip]",
    "stages.search.model.init_args.space.init_args.channels": 4,
    "stages.search.model.init_args.space.init_args.nodes": 2,
    "stages.search.trainer.max_epochs": 4,
    "stages.train.model.init_args.channels": 4,
    "stages.train.model.init_args.drop_path": 0.3,
    "stages.train.trainer.max_epochs": 4,
}
ARTIFACTS = {
    "distill": ("proxy.safetensors", "proxy.json", "pictures.safetensors"),
    "search": ("architecture.json", "alphas.safetensors"),
    "train": (),
}
STATE = (
    "state_dict",
    "optimizer_states",
    "lr_schedulers",
    "alpha_history",
    "search_model",
    "start_epoch",
    "objective",
    "means",
    "epoch",
    "global_step",
)


def prepare(folder: Path) -> None:
    """Write the configurations of the stages into a run folder."""
    overrides = [part for key, value in SMALL.items() for part in (f"--{key}", str(value))]
    given = parse(["--config", str(CONFIG), *overrides])
    folder.mkdir(parents=True, exist_ok=True)
    stages = {stage.name: stage.config for stage in resolve(given.config, folder, given.base)}
    for stage in ARTIFACTS:
        made = stages[stage]
        made["preemption"] = {"every_n_batches": 3}
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(made))


def fit(folder: Path, stage: str, checkpoint: Path | None) -> None:
    """Run a stage in this process, with its output in a file."""
    log = (folder / f"{stage}.log").open("a")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    resume = [] if checkpoint is None else ["--ckpt_path", str(checkpoint)]
    command(["fit", "--config", str(folder / f"{stage}.yaml"), *resume, "--run_folder.run", stage])


def start(folder: Path, stage: str, checkpoint: Path | None = None) -> Any:
    """Run a stage in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=fit, args=(folder, stage, checkpoint))
    process.start()
    return process


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def last_means(folder: Path, stage: str) -> dict[str, str]:
    """Read the last row of the newest CSV file."""
    newest = max((folder / stage).glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    with newest.open(newline="") as file:
        return list(csv.DictReader(file))[-1]


def differences(folder: Path, reference: Path, stage: str) -> list[str]:
    """List the parts in which two runs differ."""
    mine, expected = (
        torch.load(f / stage / "checkpoints" / "last.ckpt", weights_only=True) for f in (folder, reference)
    )
    found = [key for key in STATE if not same(mine.get(key), expected.get(key))]
    found += [n for n in ARTIFACTS[stage] if (folder / n).read_bytes() != (reference / n).read_bytes()]
    return found + ([] if last_means(folder, stage) == last_means(reference, stage) else ["last epoch's means"])


def trial(folder: Path, reference: Path, stage: str, seconds: float) -> dict[str, Any]:
    """Kill a stage after some seconds, resume it, and compare it with the uninterrupted run."""
    prepare(folder)
    for name in (n for other, names in ARTIFACTS.items() if other != stage for n in names):
        if (reference / name).is_file():  # not of a stage that is left out
            shutil.copy(reference / name, folder / name)
    process = start(folder, stage)
    time.sleep(seconds)
    process.kill()
    process.join()
    checkpoint = folder / stage / "checkpoints" / "last.ckpt"
    found = checkpoint if checkpoint.is_file() else None
    moment = "no checkpoint yet"
    if found is not None:
        loops = torch.load(found, weights_only=True)["loops"]["fit_loop"]
        batch, epoch = loops["epoch_loop.batch_progress"]["current"]["ready"], loops["epoch_progress"]["current"]
        moment = f"epoch {epoch['processed']}" + ("" if epoch["processed"] == epoch["ready"] else f", batch {batch}")
    killed = process.exitcode == -signal.SIGKILL
    again = start(folder, stage, found)
    again.join()
    wrong = differences(folder, reference, stage) if again.exitcode == 0 else [f"exit code {again.exitcode}"]
    return {"stage": stage, "killed": killed, "after": round(seconds, 2), "from": moment, "different": wrong}


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of killed processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times (default: %(default)s)")
    parser.add_argument("--last", choices=list(ARTIFACTS), default="train", help="last stage (default: %(default)s)")
    given = parser.parse_args(args)
    stages = list(ARTIFACTS)[: list(ARTIFACTS).index(given.last) + 1]
    draw = random.Random(given.seed)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as root:
        reference = Path(root) / "reference"
        prepare(reference)
        lengths = {}
        for stage in stages:
            begun = time.perf_counter()
            process = start(reference, stage)
            process.join()
            lengths[stage] = time.perf_counter() - begun
            if process.exitcode:
                raise SystemExit((reference / f"{stage}.log").read_text())
        print("seconds to the end:", {stage: round(s, 2) for stage, s in lengths.items()}, flush=True)
        while sum(row["killed"] for row in rows) < given.kills:
            stage = stages[len(rows) % len(stages)]
            row = trial(Path(root) / str(len(rows)), reference, stage, draw.random() * lengths[stage])
            rows.append(row)
            print(f"{row['stage']:<8} killed after {row['after']:5.2f} s, from {row['from']:<18}", end=" ")
            print("equal" if not row["different"] else f"DIFFERENT: {row['different']}", flush=True)
    kills = [row for row in rows if row["killed"]]  # a run that ended earlier was not killed
    result = {
        "kills": len(kills),
        "equal": sum(not row["different"] for row in kills),
        "from_a_checkpoint": sum(row["from"] != "no checkpoint yet" for row in kills),
        "within_an_epoch": sum("batch" in row["from"] for row in kills),
        "stages": {stage: sum(row["stage"] == stage for row in kills) for stage in stages},
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
