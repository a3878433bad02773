"""Measure this library on a GPU, in less than eight minutes.

    python -m benchmarks.gpu --data FILE.npz --tables FOLDER

FILE.npz has the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test`` of CIFAR-10; FOLDER has ``nasbench201.npz``.
Without one of them, the parts that need it are left out. The parts are:

- ``steps``: a first-order search step of the settings of ``benchmarks.supernet_speed``, and a step of a single-path
  supernet, plainly, in channels_last memory, in bfloat16 and as CUDA graphs: milliseconds, peak memory, launched
  kernels and waits of the CPU for the GPU.
- ``compile``: a step at S with ``compile: true``, in a process of its own that is ended when it takes too long.
- ``second``: steps with second-order hypergradients.
- ``distill``: steps of distribution and gradient matching beside loops over the classes.
- ``short``: short trainings of random cells.
- ``search``: a search in the DARTS space, and equally long trainings of its network, of random ones and of a ResNet.
- ``supernet``: a supernet of NAS-Bench-201, and Kendall's tau of its scores with the accuracies of the table.

Everything is printed as soon as it is measured, and the last line is JSON. A part that fails says so, the others go on,
and the exit status is then 1. A part that would end after ``--limit`` seconds is left out. ``--tiny`` runs all parts
with tiny sizes, also on a CPU, to see whether they work; its numbers mean nothing.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import distill_speed, gpu_runs
from benchmarks.supernet_speed import SETTINGS, Setting, our_step
from lightning_nas.spaces.single_path.space import SinglePathSpace
from lightning_nas.supernets.unused_weights import UnusedWeightGuard

Step = Callable[[], object]
Result = dict[str, Any]

MODES: dict[str, dict[str, Any]] = {
    "plain": {"channels_last": False},
    "channels_last": {},
    "bf16": {},
    "graphs": {"compile": "graphs"},
    "compile": {"compile": True},
}
"""Arguments of ``Setting`` by the name of a way to run a step."""
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy", "aten::_local_scalar_dense", "aten::nonzero")
"""Events of a profile that stand for a wait: those of CUDA, and on the CPU what would be one on a GPU."""
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cudaGraphLaunch")


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        settings: Supernets whose steps are measured.
        second: Those whose second-order steps are measured.
        seconds: Seconds that a step is repeated for.
        real: Real images per class of a distillation step.
        width: Channels of the networks of a distillation step.
        short: Steps of a short training.
        search: Seconds of the search.
        training: Seconds of a final training.
        supernet: Seconds of the training of the supernet.
        ranked: Number of cells that it ranks.
        compile: Largest number of seconds that a compilation may take.
        widths: Channels of the stages of the single-path supernet.
        changes: What makes configurations smaller, by the name of the file.
    """

    settings: Mapping[str, Setting]
    second: Mapping[str, Setting]
    seconds: float = 2.0
    real: int = 64
    width: int = 128
    short: int = 80
    search: float = 120.0
    training: float = 15.0
    supernet: float = 90.0
    ranked: int = 100
    compile: float = 75.0
    widths: tuple[int, int, int] = (64, 128, 256)
    changes: Mapping[str, Any] = field(default_factory=dict)


FULL = Sizes(
    settings={name: SETTINGS[name] for name in ("S", "L", "nasbench201")},
    second={name: SETTINGS[name] for name in ("S", "L")},
)
TINY = Sizes(
    settings={"S": Setting(4, 3, 2, (3, 8, 8)), "nasbench201": Setting(8, 1, 2, (3, 8, 8), nasbench201=True)},
    second={"S": Setting(4, 3, 2, (3, 8, 8))},
    seconds=0.0,
    real=2,
    width=4,
    short=2,
    search=0.0,
    training=0.0,
    supernet=0.0,
    ranked=5,
    compile=1.0,
    widths=(16, 32, 64),
    changes={
        "search/darts.yaml": {
            "model": {"init_args": {"space": {"init_args": {"channels": 2, "cells": 2}}, "selection_images": 0}},
            "data": {"init_args": {"batch_size": 4}},
            "trainer": {"limit_train_batches": 3},
        },
        "train/darts_cifar10.yaml": {
            "model": {"init_args": {"channels": 2, "cells": 2}},
            "data": {"init_args": {"batch_size": 4}},
            "trainer": {"limit_train_batches": 3, "limit_test_batches": 1},
        },
        "supernet/uniform.yaml": {
            "model": {"init_args": {"space": {"init_args": {"channels": 2, "cells_per_stage": 1}}}},
            "data": {"init_args": {"batch_size": 4}},
            "trainer": {"limit_train_batches": 3},
        },
    },
)


class Bench:
    """The measurements.

    Args:
        options: Options of the command line.
        folder: Folder for all files.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.sizes: Sizes = TINY if options.tiny else FULL
        self.device: str = options.device

    def say(self, text: str) -> None:
        """Print a line at once."""
        print(f"  {text}", flush=True)

    def wait(self) -> None:
        """Let the GPU finish."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def timed(self, name: str, make: Callable[[], Step]) -> Result:
        """Measure a step: milliseconds, peak memory in MB, kernels and waits.

        Args:
            name: What the step is called.
            make: Makes it.
        """
        cuda = self.device == "cuda"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step = make()
        for _ in range(1 if self.options.tiny else 3):
            step()
        self.wait()
        start, count = time.perf_counter(), 0
        while not count or time.perf_counter() - start < self.sizes.seconds:
            for _ in range(5 if cuda else 1):
                step()
                count += 1
            self.wait()
        took = (time.perf_counter() - start) / count
        found = {"ms": round(1000 * took, 3), "mb": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else None}
        found |= self.profiled(step)
        self.say(f"{name}: " + ", ".join(f"{value} {key}" for key, value in found.items()))
        return found

    def profiled(self, step: Step) -> Result:
        """Count the kernels that a step launches, and its waits."""
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device == "cuda" else [])]
        with profile(activities=activities) as found:
            step()
        counts = {event.key: event.count for event in found.key_averages()}
        launches = sum(counts.get(name, 0) for name in LAUNCHES) if self.device == "cuda" else None
        return {"launches": launches, "waits": sum(counts.get(name, 0) for name in WAITS)}

    def each(self, steps: Mapping[str, Callable[[], Step]]) -> Result:
        """Measure several steps; one that fails does not keep the others from being measured."""
        found: Result = {}
        for name, make in steps.items():
            try:
                found[name] = self.timed(name, make)
            except Exception as error:
                found[name] = self.failed(name, error)
        return found

    def failed(self, name: str, error: Exception) -> Result:
        """Say that something has failed."""
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error).strip()[:500]} ({Path(place.filename).name}:{place.lineno})"
        self.say(f"{name} FAILED: {text}")
        return {"error": text}

    # -- parts --------------------------------------------------------------------------------------------------------

    def steps(self) -> Result:
        """See the module."""
        cpu = self.device == "cpu"
        modes = self.options.modes or [mode for mode in MODES if mode != "compile" and not (cpu and mode == "graphs")]
        wanted: dict[str, Callable[[], Step]] = {}
        for name, setting in self.sizes.settings.items():
            if self.options.settings and name not in self.options.settings:
                continue
            for mode in modes:
                whole = replace(setting, device=self.device, **MODES[mode])
                wanted[f"{name} {mode}"] = lambda whole=whole, mode=mode: autocast(our_step(whole), self.device, mode)  # type: ignore[misc]
        if not self.options.settings:
            for mode in ("plain", "channels_last", "bf16"):
                wanted[f"single path {mode}"] = lambda mode=mode: self.single_path(mode)  # type: ignore[misc]
        return self.each(wanted)

    def single_path(self, mode: str) -> Step:
        """Create steps of a single-path supernet, one random path each."""
        space = SinglePathSpace(
            widths=list(self.sizes.widths), depths=[4, 4, 4], strides=[1, 2, 2], stem_stride=1, last=512
        )
        batch, side = (2, 8) if self.options.tiny else (64, 32)
        layout = torch.contiguous_format if mode == "plain" else torch.channels_last
        network = space.supernet(num_classes=10, image_shape=(3, side, side)).to(self.device, memory_format=layout)
        weights = list(network.parameters())
        sgd = torch.optim.SGD(weights, 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
        guard, generator = UnusedWeightGuard(network), torch.Generator().manual_seed(0)

        def step() -> None:
            images = torch.randn(batch, 3, side, side, device=self.device).to(memory_format=layout)
            labels = torch.randint(10, (batch,), device=self.device)
            logits = network(images, space.to_path(space.sample(generator)))
            sgd.zero_grad()
            F.cross_entropy(logits, labels).backward()
            nn.utils.clip_grad_norm_(weights, 5.0)
            guard.before_step(sgd)
            sgd.step()
            guard.after_step(sgd)

        return autocast(step, self.device, mode)

    def compile(self) -> Result:
        """See the module."""
        command = [sys.executable, "-m", "benchmarks.gpu", "--parts=steps", "--settings=S", "--modes=compile"]
        command += [f"--device={self.device}", *(["--tiny"] if self.options.tiny else [])]
        root = Path(__file__).resolve().parent.parent
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command, cwd=root, capture_output=True, text=True, timeout=self.sizes.compile, check=False
            )
        except subprocess.TimeoutExpired:
            self.say(f"not finished after {self.sizes.compile:.0f} s")
            return {"unfinished_after": self.sizes.compile}
        found: Result = json.loads(done.stdout.splitlines()[-1])["steps"]["S compile"]
        found["seconds"] = round(time.perf_counter() - start, 1)
        self.say(f"{found}")
        return found

    def second(self) -> Result:
        """See the module."""
        wanted: dict[str, Callable[[], Step]] = {}
        for name, setting in self.sizes.second.items():
            for order in ("first", "second", "exact"):
                whole = replace(setting, device=self.device, order=order)
                wanted[f"{name} {order}"] = lambda whole=whole: our_step(whole)  # type: ignore[misc]
        return self.each(wanted)

    def distill(self) -> Result:
        """See the module."""
        setting = distill_speed.Setting(self.sizes.real, self.sizes.width, self.device)
        wanted: dict[str, Callable[[], Step]] = {}
        for name, methods in distill_speed.METHODS.items():
            for whose, make in zip(("ours", "loop"), methods, strict=True):
                wanted[f"{name} {whose}"] = lambda make=make: make(setting, setting.draw()[2])  # type: ignore[misc]
        return self.each(wanted)

    def short(self) -> Result:
        """See the module."""
        return gpu_runs.short(self)

    def search(self) -> Result:
        """See the module."""
        return gpu_runs.search(self)

    def supernet(self) -> Result:
        """See the module."""
        return gpu_runs.supernet(self)


def autocast(step: Step, device: str, mode: str) -> Step:
    """Let a step run in bfloat16, if the mode is that."""
    if mode != "bf16":
        return step

    def run_in_bfloat16() -> None:
        with torch.autocast(device, torch.bfloat16):
            step()

    return run_in_bfloat16


PARTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "steps": (60, ()),
    "compile": (75, ()),
    "second": (25, ()),
    "distill": (15, ()),
    "short": (15, ("data",)),
    "search": (200, ("data",)),
    "supernet": (115, ("data", "tables")),
}
"""Parts, with the seconds that they take on a GPU, and the options that they need."""


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="npz file of CIFAR-10")
    parser.add_argument("--tables", default=os.environ.get("LIGHTNING_NAS_DATA"), help="folder of nasbench201.npz")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to run")
    parser.add_argument("--skip", nargs="+", choices=list(PARTS), default=[], help="parts to leave out")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), help="supernets of the part steps")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), help="ways to run their steps")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else None)
    parser.add_argument("--limit", type=float, default=480, help="seconds in all (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on any device")
    options = parser.parse_args(given)
    if options.device is None and not options.tiny:
        parser.error("there is no GPU. --tiny runs everything in tiny sizes on a CPU, --device cpu in full sizes")
    options.device = options.device or "cpu"
    return options


def measured(bench: Bench, part: str, left: float) -> Result:
    """Run a part, unless it lacks something or time."""
    seconds, needs = PARTS[part]
    missing = [f"--{name}" for name in needs if getattr(bench.options, name) is None]
    if missing or (seconds > left and not bench.options.tiny):
        reason = f"needs {' and '.join(missing)}" if missing else f"takes about {seconds} s, and {left:.0f} s are left"
        bench.say(f"left out: {reason}")
        return {"left_out": reason}
    try:
        found: Result = getattr(bench, part)()
    except Exception as error:
        return bench.failed(part, error)
    return found


def has_failed(result: Any) -> bool:
    """Whether a result, or a part of it, is an error."""
    return isinstance(result, dict) and ("error" in result or any(map(has_failed, result.values())))


def main(given: list[str] | None = None) -> None:
    """Run all parts; exit with status 1 if one has failed."""
    options = arguments_of(given)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    start = time.perf_counter()
    cuda = options.device == "cuda"
    if cuda:
        torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if cuda else "CPU"
    result: Result = {"device": name, "torch": torch.__version__, "tiny": options.tiny}
    print(f"{name}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for part in options.parts:
            if part in options.skip:
                continue
            print(f"{part}, after {time.perf_counter() - start:.0f} s", flush=True)
            result[part] = measured(bench, part, options.limit - (time.perf_counter() - start))
            if cuda:
                torch.cuda.empty_cache()
    result["seconds"] = round(time.perf_counter() - start, 1)
    print(json.dumps(result))
    if has_failed(result):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
