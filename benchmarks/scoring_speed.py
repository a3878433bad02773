"""Speed of scoring NAS-Bench-201 architectures with the weights of a supernet, several at once against one by one.

    python -m benchmarks.scoring_speed --setting small

One by one is what every supernet supports: a pass in training mode on the images for the batch-norm statistics, then
one in eval mode on the images for the score. The two are timed in turn. The last line is JSON: median ratios of the
times, median milliseconds per architecture and computing operations per architecture, by the number of architectures
that are scored at once, and the largest difference of losses.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.supernets.scoring import score_paths

Scores = list[dict[str, float]]

VIEWS = ("empty", "view", "as_strided", "select", "expand", "reshape", "permute", "transpose", "resize", "detach")
"""Parts of the names of operations that do not compute."""


@dataclass(frozen=True)
class Setting:
    """A size: channels, cells per stage, side of the images, and number of images per score."""

    channels: int
    cells: int
    side: int
    images: int


SETTINGS = {
    "small": Setting(8, 1, 8, 500),
    "medium": Setting(8, 1, 16, 500),
    "large": Setting(16, 5, 32, 256),
}


class OneByOne(nn.Module):
    """A supernet without its ability to compute several architectures at once."""

    def __init__(self, supernet: nn.Module) -> None:
        super().__init__()
        self.supernet = supernet

    def forward(self, x: Tensor, path: Any) -> Tensor:
        """Compute logits."""
        logits: Tensor = self.supernet(x, path)
        return logits


class Scoring:
    """A supernet, architectures, and images to score them on; 256 further images give the batch-norm statistics.

    Args:
        setting: The size.
        count: Number of architectures.
        device: The device.
        children: Whether the architectures are one and its neighbours, as in an evolution, instead of uniform ones.
    """

    def __init__(self, setting: Setting, count: int, device: str, children: bool) -> None:
        torch.manual_seed(0)
        space = NASBench201Space(channels=setting.channels, cells_per_stage=setting.cells)
        shape = (3, setting.side, setting.side)
        self.supernet = space.supernet(num_classes=10, image_shape=shape).to(device)
        self.general = OneByOne(self.supernet)
        generator = torch.Generator().manual_seed(0)
        first = space.sample(generator)
        drawn = [first, *space.neighbours(first)] if children else [space.sample(generator) for _ in range(count)]
        self.paths = [space.to_path(architecture) for architecture in drawn[:count]]
        self.calibration = torch.randn(256, *shape, device=device)
        labels = torch.randint(10, (setting.images,), device=device)
        self.held = [(torch.randn(setting.images, *shape, device=device), labels)]

    def one_by_one(self) -> Scores:
        """Score one architecture after another."""
        return score_paths(self.general, self.paths, self.calibration, self.held)

    def together(self, count: int) -> Scores:
        """Score ``count`` architectures at once."""
        found = []
        for start in range(0, len(self.paths), count):
            found += score_paths(self.supernet, self.paths[start : start + count], self.calibration, self.held)
        return found

    def losses(self, score: Callable[[], Scores]) -> Tensor:
        """Losses of all architectures."""
        return torch.tensor([each["loss"] for each in score()], dtype=torch.float64)

    def milliseconds(self, score: Callable[[], Scores]) -> float:
        """Wall time per architecture; reading the scores waits for the device."""
        start = time.perf_counter()
        score()
        return 1000 * (time.perf_counter() - start) / len(self.paths)

    def operations(self, score: Callable[[], Scores]) -> float:
        """Number of computing operations per architecture: roughly the kernels that a GPU would launch."""
        with profile(activities=[ProfilerActivity.CPU]) as found:
            score()
        leaves = [e for e in found.events() if e.name.startswith("aten::") and not e.cpu_children]
        return sum(not any(part in e.name for part in VIEWS) for e in leaves) / len(self.paths)


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--setting", choices=list(SETTINGS), default="small")
    parser.add_argument("--together", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--paths", type=int, default=16, help="number of architectures")
    parser.add_argument(
        "--children", action="store_true", help="score neighbours of one architecture instead of uniform ones"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Run the benchmark; the last line is JSON."""
    arguments = arguments_of(given)
    scoring = Scoring(SETTINGS[arguments.setting], arguments.paths, arguments.device, arguments.children)
    ways: dict[str, Callable[[], Scores]] = {"one by one": scoring.one_by_one}
    ways |= {str(count): partial(scoring.together, count) for count in arguments.together}
    losses = {name: scoring.losses(score) for name, score in ways.items()}  # warms up, too
    rounds = [{name: scoring.milliseconds(score) for name, score in ways.items()} for _ in range(arguments.rounds)]
    ratios = {n: statistics.median(r["one by one"] / r[n] for r in rounds) for n in ways}
    medians = {n: statistics.median(r[n] for r in rounds) for n in ways}
    counts = {n: scoring.operations(score) for n, score in ways.items()}
    print(f"{arguments.setting}, {len(scoring.paths)} architectures, {arguments.device}")
    print(f"{'together':>10}  {'ms':>8}  {'ratio':>5}  {'operations':>10}")
    for name in ways:
        print(f"{name:>10}  {medians[name]:8.2f}  {ratios[name]:5.2f}  {counts[name]:10.0f}")
    result = {
        "setting": arguments.setting,
        "children": arguments.children,
        "ratios": {name: round(value, 3) for name, value in ratios.items() if name != "one by one"},
        "milliseconds": {name: round(value, 3) for name, value in medians.items()},
        "operations": {name: round(value) for name, value in counts.items()},
        "max_difference": max(float((each - losses["one by one"]).abs().max()) for each in losses.values()),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
