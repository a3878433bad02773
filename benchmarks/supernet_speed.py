"""Compare the time of a search step in the library's supernets with that in supernets of one module per edge.

    python -m benchmarks.supernet_speed --setting S

Steps of both alternate in one process. The last line is JSON: the median ratio of the times, median seconds, the
largest difference of logits from the same weights, and peak memory, which is measured in separate processes.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import reference_darts as reference
from lightning_nas.differentiable.runner import Compile, SupernetRunner
from lightning_nas.spaces.base import DifferentiableSpace
from lightning_nas.spaces.convert import from_per_edge
from lightning_nas.spaces.darts import fused_edges
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.supernet import Mixture

Step = Callable[[], object]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Setting:
    """Sizes of the comparison. ``cells`` counts those of one stage in a space with stages."""

    channels: int
    cells: int
    batch: int
    image: tuple[int, int, int]
    partial_channels: int = 1
    nasbench201: bool = False
    order: str = "first"
    device: str = "cpu"
    channels_last: bool = True
    fused: bool = True
    checkpoint_cells: bool = False
    compile: Compile = False

    def draw(self) -> Batch:
        """Draw a random batch."""
        images = torch.randn(self.batch, *self.image, device=self.device)
        return images, torch.randint(10, (self.batch,), device=self.device)


SETTINGS = {
    "S": Setting(8, 5, 32, (3, 32, 32)),
    "L": Setting(16, 8, 64, (3, 32, 32)),
    "pc": Setting(8, 5, 32, (3, 32, 32), partial_channels=4),
    "digits": Setting(8, 5, 32, (1, 8, 8)),
    "nasbench201": Setting(16, 5, 64, (3, 32, 32), nasbench201=True),
}


Reference = reference.Network | reference.NB201Network


class Ours(nn.Module):
    """The supernet of the library, with the interface of the reference."""

    def __init__(self, setting: Setting, net: Reference) -> None:
        super().__init__()
        space: DifferentiableSpace = (
            NASBench201Space(channels=setting.channels, cells_per_stage=setting.cells)
            if setting.nasbench201
            else DARTSSpace(channels=setting.channels, cells=setting.cells, partial_channels=setting.partial_channels)
        )
        self.net = space.supernet(num_classes=10, image_shape=setting.image)
        self.edge_weights = net.edge_weights
        self.first_order = setting.order == "first"
        self.to(setting.device)
        from_per_edge(net.state_dict(), self.net)
        self.runner = SupernetRunner(self.net, setting.channels_last, setting.checkpoint_cells, setting.compile)

    def forward(self, x: Tensor, alphas: Mapping[str, Tensor], betas: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return logits."""
        mixtures = {}
        for name, alpha in alphas.items():
            weights, edges = alpha.softmax(1), alpha.new_ones(len(alpha))
            if betas is not None:
                edges = self.edge_weights(betas[name])
                weights = weights * edges.unsqueeze(1)
            mixtures[name] = Mixture(weights, edges)
        alphas_move = any(alpha.requires_grad for alpha in alphas.values())
        return self.runner(x, mixtures, frozen=alphas_move and self.first_order)


def make_reference(setting: Setting) -> Reference:
    """Create the plain supernet, always with the same weights."""
    torch.manual_seed(0)
    if setting.nasbench201:
        plain = reference.NB201Network(setting.channels, cells=setting.cells, channels_in=setting.image[0])
        return plain.to(setting.device)
    net = reference.Network(
        setting.channels,
        cells=setting.cells,
        partial_channels=setting.partial_channels,
        channels_in=setting.image[0],
    )
    return net.to(setting.device)


def make_alphas(setting: Setting) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Create alphas and, for partial channels, edge weights."""
    torch.manual_seed(1)
    names = ("cell",) if setting.nasbench201 else ("normal", "reduce")

    def draw(*shape: int) -> dict[str, Tensor]:
        return {name: (1e-3 * torch.randn(*shape)).to(setting.device).requires_grad_() for name in names}

    if setting.nasbench201:
        return draw(6, 5), None
    return draw(14, 8), draw(14) if setting.partial_channels > 1 else None


def optimizers(
    net: nn.Module, arch: list[Tensor], fused: bool | None
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Create the optimizers of the DARTS paper."""
    sgd = torch.optim.SGD(net.parameters(), 0.025, momentum=0.9, weight_decay=3e-4, fused=fused)
    return sgd, torch.optim.Adam(arch, 3e-4, (0.5, 0.999), weight_decay=1e-3, fused=fused)


def lean_step(
    setting: Setting,
    net: nn.Module,
    alphas: dict[str, Tensor],
    betas: dict[str, Tensor] | None,
    sgd: torch.optim.Optimizer,
    adam: torch.optim.Optimizer,
) -> None:
    """Run a bi-level step that computes only gradients that it uses."""
    arch = [*alphas.values(), *(betas or {}).values()]
    train, search = setting.draw(), setting.draw()
    if setting.order == "first":
        grads = torch.autograd.grad(F.cross_entropy(net(search[0], alphas, betas), search[1]), arch)
    else:
        exact = setting.order == "exact"
        grads = tuple(reference.second_order_gradient(net, alphas, betas, train, search, sgd, exact))
    for a, g in zip(arch, grads, strict=True):
        a.grad = g
    adam.step()
    sgd.zero_grad()
    fixed = {name: a.detach() for name, a in alphas.items()}
    fixed_betas = None if betas is None else {name: b.detach() for name, b in betas.items()}
    F.cross_entropy(net(train[0], fixed, fixed_betas), train[1]).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    sgd.step()


def reference_step(setting: Setting) -> Step:
    """Create steps of the plain supernet as in the public code."""
    net, (alphas, betas) = make_reference(setting), make_alphas(setting)
    sgd, adam = optimizers(net, [*alphas.values(), *(betas or {}).values()], None)
    names = {"first": "first_order_step", "second": "second_order_step", "exact": "exact_step"}
    step = getattr(reference, names[setting.order])
    return lambda: step(net, alphas, betas, setting.draw(), setting.draw(), sgd, adam)


def lean_reference_step(setting: Setting) -> Step:
    """Create steps of the plain supernet with channels_last memory and without unused gradients."""
    net, (alphas, betas) = make_reference(setting).to(memory_format=torch.channels_last), make_alphas(setting)
    sgd, adam = optimizers(net, [*alphas.values(), *(betas or {}).values()], None)

    def draw_and_step() -> None:
        lean_step(setting, _ChannelsLast(net), alphas, betas, sgd, adam)

    return draw_and_step


class _ChannelsLast(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, alphas: reference.Arch, betas: reference.Arch | None) -> Tensor:
        logits: Tensor = self.net(x.contiguous(memory_format=torch.channels_last), alphas, betas)
        return logits


def our_step(setting: Setting) -> Step:
    """Create steps of the library's supernet."""
    net, (alphas, betas) = Ours(setting, make_reference(setting)), make_alphas(setting)
    sgd, adam = optimizers(net, [*alphas.values(), *(betas or {}).values()], setting.fused or None)
    return partial(lean_step, setting, net, alphas, betas, sgd, adam)


def wide_step(setting: Setting) -> Step:
    """Create steps of the library's supernet that leave small images to the kernel of large ones."""
    step = our_step(setting)

    def run() -> None:
        with mock.patch.object(fused_edges, "DENSE_PIXELS", 0):
            step()

    return run


def seconds(step: Step, device: str) -> float:
    """Measure the wall-clock time of one step."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(ours: Step, other: Step, device: str, rounds: int) -> tuple[float, float, float]:
    """Alternate both after one untimed step each; return the median ratio and the median seconds of both."""
    ours(), other()
    pairs = [(seconds(ours, device), seconds(other, device)) for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in pairs)
    return ratio, statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


@torch.no_grad()
def difference(setting: Setting) -> float:
    """Compute the largest difference of logits from the same weights."""
    net, (alphas, betas) = make_reference(setting), make_alphas(setting)
    x, _ = setting.draw()
    return float((net(x, alphas, betas) - Ours(setting, net)(x, alphas, betas)).abs().max())


def peak_mb(step: Step, device: str) -> float:
    """Measure the peak memory of three steps, for a process of its own."""
    for _ in range(3):
        step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # ru_maxrss would include the memory of the parent process
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_memory(arguments: argparse.Namespace, which: str) -> float:
    """Run this program again in another process to measure memory."""
    command = [sys.executable, "-m", "benchmarks.supernet_speed", "--memory", which]
    names = (
        "setting",
        "order",
        "device",
        "threads",
        "against",
        "channels-last",
        "fused",
        "checkpoint-cells",
        "compile",
    )
    for name in names:
        value = getattr(arguments, name.replace("-", "_"))
        command += [f"--{name}", str(value)] if value is not None else []
    root = Path(__file__).resolve().parent.parent
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--setting", choices=list(SETTINGS), default="S")
    parser.add_argument("--order", choices=("first", "second", "exact"), default="first")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--against",
        help="module:function that maps a Setting to a step without arguments; replaces the reference",
    )
    parser.add_argument("--channels-last", choices=("true", "false"), default="true")
    parser.add_argument("--fused", choices=("true", "false"), default="true")
    parser.add_argument("--checkpoint-cells", choices=("true", "false"), default="false")
    parser.add_argument("--compile", choices=("true", "false", "graphs"), default="false")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory", choices=("ours", "reference"), help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Measure and print the result."""
    arguments = arguments_of(given)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    chosen = SETTINGS[arguments.setting]
    given = {
        "order": arguments.order,
        "device": arguments.device,
        "channels_last": arguments.channels_last == "true",
        "fused": arguments.fused == "true",
        "checkpoint_cells": arguments.checkpoint_cells == "true",
        "compile": {"true": True, "false": False}.get(arguments.compile, arguments.compile),
    }
    setting = Setting(**{**vars(chosen), **given})
    other = reference_step
    if arguments.against:
        module, name = arguments.against.split(":")
        other = getattr(importlib.import_module(module), name)
    if arguments.memory:
        make = our_step if arguments.memory == "ours" else other
        print(peak_mb(make(setting), setting.device))
        return
    ours = our_step(setting)
    ratio, own, theirs = interleaved(ours, other(setting), setting.device, arguments.rounds)
    print(f"{arguments.setting}, {arguments.order} order, {setting.device}: {own:.3f} s, reference {theirs:.3f} s")
    if setting.partial_channels == 1:
        lean, _, lean_seconds = interleaved(ours, lean_reference_step(setting), setting.device, arguments.rounds)
        print(f"against a channels_last reference without unused gradients ({lean_seconds:.3f} s): {lean:.2f}")
    else:  # with torch 2.15 on a CPU, strided 1x1 convolutions of so few channels overrun their memory
        print("no channels_last reference: it does not run with so few channels")
    result = {
        "setting": arguments.setting,
        "ratio": round(ratio, 3),
        "seconds": round(own, 4),
        "reference_seconds": round(theirs, 4),
        "max_difference": difference(setting),
        "peak_mb": round(measure_memory(arguments, "ours")),
        "reference_peak_mb": round(measure_memory(arguments, "reference")),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
