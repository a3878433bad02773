"""Compare the time of a distillation step with that of a plain loop over classes.

    python -m benchmarks.distill_speed

Distribution matching and gradient matching are compared, with random images of CIFAR-10's shape, 10 classes and 10
synthetic images per class. The loops follow published code: for every class one forward pass of its real and one of its
synthetic images, then the sum of all distances and one backward pass. A step computes the loss and the gradient of the
images; steps of both alternate in one process. The last line is JSON: the median ratios of the times, the largest
relative difference of losses and gradients in float64, and peak memory, which is measured in separate processes. (In
float32 the losses agree to 1e-5. Their gradients need not: of about ten million activations, one or two are so close to
0 that a ReLU passes them in one order of additions and not in another, which changes the gradient of an image.)
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lightning_nas.distill.base import Synthetic
from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.distribution import DistributionMatching
from lightning_nas.distill.gradient import GradientMatching

Step = Callable[[], float]
"""Computes the gradient of the images in their ``grad``, and returns the loss."""

CLASSES = 10
PER_CLASS = 10
SHAPE = (3, 32, 32)
SEED = 7


@dataclass(frozen=True)
class Setting:
    """Sizes of the comparison. The images and their labels are always the same."""

    real: int
    width: int
    device: str
    dtype: torch.dtype = torch.float32

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw real images and labels, and synthetic images, which require gradients, and labels."""
        generator = torch.Generator().manual_seed(0)
        sets = []
        for per_class in (self.real, PER_CLASS):
            labels = torch.arange(CLASSES).repeat_interleave(per_class)
            # classes differ from each other, as those of real images do
            centres = torch.randn(CLASSES, *SHAPE, generator=generator)
            images = torch.randn(len(labels), *SHAPE, generator=generator) + centres[labels]
            sets += [images.to(self.device, self.dtype), labels.to(self.device)]
        sets[2].requires_grad_()
        return sets[0], sets[1], sets[2], sets[3]


def our_gradient(setting: Setting, images: Tensor, networks: int = 1) -> Step:
    """Gradient matching of the library."""
    real, real_labels, _, labels = setting.draw()
    matcher = GradientMatching(width=setting.width)
    matcher.start(SHAPE, CLASSES, SEED)
    matcher.to(setting.device, setting.dtype)
    return our_step(matcher, (real, real_labels), images, labels)


def our_distribution(setting: Setting, images: Tensor, networks: int = 1) -> Step:
    """Distribution matching of the library."""
    real, real_labels, _, labels = setting.draw()
    matcher = DistributionMatching(width=setting.width, networks=networks)
    matcher.start(SHAPE, CLASSES, SEED)
    return our_step(matcher, (real, real_labels), images, labels)


def our_step(
    matcher: GradientMatching | DistributionMatching, real: tuple[Tensor, Tensor], images: Tensor, labels: Tensor
) -> Step:
    """Compute one loss and its gradient."""

    def step() -> float:
        images.grad = None
        loss = matcher.loss(real, lambda seed: Synthetic(images, labels, labels), SEED)
        loss.backward()
        return float(loss.detach())

    return step


def seeded_network(setting: Setting, num_classes: int) -> ConvNet:
    """Create the network that the library creates from the seed."""
    torch.manual_seed(SEED)
    return ConvNet(SHAPE, num_classes, setting.width).to(setting.device, setting.dtype)


def plain_gradient(setting: Setting, images: Tensor, networks: int = 1) -> Step:
    """Gradient matching class by class, with one backward pass."""
    real, real_labels, _, labels = setting.draw()
    net = seeded_network(setting, CLASSES)
    weights = list(net.parameters())

    def step() -> float:
        images.grad = None
        net.zero_grad()
        loss = images.new_zeros(())
        for c in range(CLASSES):
            own, theirs = labels == c, real_labels == c
            target = torch.autograd.grad(F.cross_entropy(net(real[theirs]), real_labels[theirs]), weights)
            found = torch.autograd.grad(F.cross_entropy(net(images[own]), labels[own]), weights, create_graph=True)
            for a, b in zip(found, target, strict=True):
                if a.dim() > 1:
                    loss = loss + (1 - F.cosine_similarity(a.flatten(1), b.flatten(1))).sum()
        loss.backward()
        return float(loss.detach())

    return step


def plain_distribution(setting: Setting, images: Tensor, networks: int = 1) -> Step:
    """Distribution matching class by class and network by network, with one backward pass."""
    real, real_labels, _, labels = setting.draw()

    def step() -> float:
        images.grad = None
        torch.manual_seed(SEED)
        made = [ConvNet(SHAPE, 1, setting.width).features for _ in range(networks)]
        embeddings = [features.to(setting.device, setting.dtype) for features in made]
        loss = images.new_zeros(())
        for embed in embeddings:
            embed.requires_grad_(False)
            for c in range(CLASSES):
                target = embed(real[real_labels == c]).detach().mean(0)
                loss = loss + (embed(images[labels == c]).mean(0) - target).square().sum() / networks
        loss.backward()
        return float(loss.detach())

    return step


def seconds(step: Step, device: str) -> float:
    """Measure the wall-clock time of one step."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def difference(ours: Step, plain: Step, images: Tensor) -> tuple[float, float]:
    """Compute the relative difference of the losses, and the largest one of the gradients."""
    results = []
    for step in (ours, plain):
        loss = step()
        assert images.grad is not None
        results.append((loss, images.grad))
    (own_loss, own), (loss, gradient) = results
    return abs(own_loss - loss) / abs(loss), float((own - gradient).abs().max() / gradient.abs().max())


def compare(name: str, setting: Setting, networks: int, rounds: int) -> tuple[float, float]:
    """Print the times, and return the median ratio and the largest difference in float64."""
    images = setting.draw()[2]
    ours, plain = (make(setting, images, networks) for make in METHODS[name])
    loss, _ = difference(ours, plain, images)
    pairs = [(seconds(ours, setting.device), seconds(plain, setting.device)) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in pairs)
    own_time, time_ = (statistics.median(times) for times in zip(*pairs, strict=True))
    exact = replace(setting, real=min(setting.real, 8), dtype=torch.float64)
    images = exact.draw()[2]
    worst = max(difference(*(make(exact, images, networks) for make in METHODS[name]), images))
    print(
        f"{name} matching: {own_time:.3f} s, loop {time_:.3f} s, ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}); difference {worst:.1e}, of losses in float32 {loss:.1e}",
        flush=True,
    )
    return statistics.median(ratios), max(worst, loss)


METHODS = {
    "distribution": (our_distribution, plain_distribution),
    "gradient": (our_gradient, plain_gradient),
}


MEMORY = [f"{name}-{whose}" for name in METHODS for whose in ("ours", "reference")]


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
    command = [sys.executable, "-m", "benchmarks.distill_speed", "--memory", which]
    for name in ("real", "width", "device", "threads", "networks"):
        value = getattr(arguments, name)
        command += [f"--{name}", str(value)] if value is not None else []
    root = Path(__file__).resolve().parent.parent
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def arguments_of(given: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--real", type=int, default=64, help="real images per class (default: %(default)s)")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--networks", type=int, default=1, help="networks of distribution matching (default: %(default)s)"
    )
    parser.add_argument("--memory", choices=MEMORY, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Measure and print the result."""
    arguments = arguments_of(given)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    setting = Setting(arguments.real, arguments.width, arguments.device)
    if arguments.memory:
        name, whose = arguments.memory.split("-")
        images = setting.draw()[2]
        make = METHODS[name][whose == "reference"]
        print(peak_mb(make(setting, images, arguments.networks), setting.device))
        return
    ratios, differences = zip(
        *(compare(name, setting, arguments.networks, arguments.rounds) for name in METHODS), strict=True
    )
    peaks = {which: round(measure_memory(arguments, which)) for which in MEMORY}
    print("peak memory, MB:", ", ".join(f"{which} {peak}" for which, peak in peaks.items()))
    result = {
        "distribution_ratio": round(ratios[0], 3),
        "gradient_ratio": round(ratios[1], 3),
        "max_difference": max(differences),
        "peak_mb": peaks["gradient-ours"],
        "reference_peak_mb": peaks["gradient-reference"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
