"""Formats of exported networks. Every file is compared with the network before it appears."""

import copy
import importlib
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lightning_nas.checks import one_of
from lightning_nas.data.examples import Resize
from lightning_nas.errors import ConfigError, ExportError, MissingDependencyError, NASError
from lightning_nas.export.preprocessing import Preprocessing
from lightning_nas.files.artifacts import replacing
from lightning_nas.terminal import INDENT, tell

TOLERANCE = 1e-5
"""Largest allowed difference between the outputs of network and file, relative to outputs above 1."""

TRACED_BATCH = 3
"""Images in the batch that a network is traced with; torch.export would treat 0 or 1 as a constant."""

CHECKED_BATCHES = (1, 2, 5)
"""Images in the batches that a written file is compared on; none has the size of the traced batch."""


@dataclass(frozen=True)
class Description:
    """What a file says about its network besides the weights.

    Args:
        image_shape: ``(channels, height, width)`` of an image.
        class_names: One name per output.
        mean: Mean of every channel of images in [0, 1]; the network expects ``(image - mean) / std``.
        std: Standard deviation of every channel of images in [0, 1].
        header: Text about how the network was found.
        resize: With ``bilinear`` or ``area``, the files take raw images, uint8 of any height and width, and resize and
            normalize them themselves; see ``Preprocessing``. By default they take floats of the shape above that are
            normalized already.

    Raises:
        ConfigError: ``mean`` or ``std`` does not have one value per channel, or ``resize`` is something else.

    Example:
        ```python
        Description((1, 28, 28), ("0", "1"), mean=(0.13,), std=(0.31,), header="Searched with seed 3.")
        ```
    """

    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    header: str
    resize: str | None = None

    def __post_init__(self) -> None:
        one_of(get_args(Resize), resize=self.resize)
        channels = self.image_shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ConfigError(
                f"mean has {len(self.mean)} and std {len(self.std)} values, but images have {channels} channels. Give "
                "one value per channel."
            )

    def json(self) -> str:
        """Return what a program needs to use the network: ``image_shape``, ``classes``, ``mean`` and ``std``.

        A file that takes raw images also says how it resizes them: ``resize``.
        """
        content = {"image_shape": self.image_shape, "classes": self.class_names, "mean": self.mean, "std": self.std}
        return json.dumps(content | ({} if self.resize is None else {"resize": self.resize}))

    def raw(self, network: nn.Module) -> nn.Module:
        """Return a network as the files have it: behind its preprocessing, if they take raw images."""
        if self.resize is None:
            return network
        return nn.Sequential(Preprocessing(self.image_shape, self.mean, self.std, self.resize), network).eval()


@dataclass(frozen=True)
class Exportable:
    """A network that a format can write.

    Args:
        network: The network, without auxiliary head, in float32, on the CPU and in eval mode. Its attribute
            ``arguments`` is a dictionary of its constructor arguments.
        description: What the file says about it.
        calibration: Images as the file takes them, ``(channels, height, width)`` each, from which a format that
            quantizes the network learns the range of its values.
    """

    network: nn.Module
    description: Description
    calibration: Iterable[Tensor] = ()

    @property
    def free_sizes(self) -> dict[int, str]:
        """The dimensions of a batch of images that may have any size, with their names."""
        return {0: "batch"} | ({} if self.description.resize is None else {2: "height", 3: "width"})

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The operations of the network for any number of images; traced once for all formats."""
        channels, height, width = self.description.image_shape
        if self.description.resize is None:
            example = torch.zeros(TRACED_BATCH, channels, height, width, device="cpu", dtype=torch.float32)
        else:  # a size that is neither that of the network nor of an exceptional kind
            shape = (TRACED_BATCH, channels, height + 8, width + 9)
            example = torch.zeros(shape, device="cpu", dtype=torch.uint8)
        # torch 2.6 cannot prove an open interval
        free = {index: torch.export.Dim(name, min=1, max=2**31 - 1) for index, name in self.free_sizes.items()}
        network = self.description.raw(self.network)
        program = torch.export.export(network, (example,), dynamic_shapes=(free,), strict=False)
        for node in program.graph.nodes:
            # stack traces name folders of this machine, and the files are for other machines
            node.meta.pop("stack_trace", None)
        return program


class Format(ABC):
    """A file format for networks.

    Attributes:
        file_name: Name of the file.
        needs: What is needed to use the file, in a few words.
        usage: Python code for the model card that loads the file from the current folder and uses it. It defines
            ``images`` with values in [0, 1], and ``names``, the predicted classes.
        raw_usage: The same for a file that takes raw images; it defines uint8 ``images``.
        packages: Packages besides torch that must be installed to write, check and use the file.
        extra: The extra of this library that installs them.
        tolerance: Largest allowed difference between its outputs and the network's, relative to outputs above 1.
        needs_images: Whether it is written with the help of training images, so that it must be asked for by name.
    """

    file_name: ClassVar[str]
    needs: ClassVar[str]
    usage: ClassVar[str]
    raw_usage: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    tolerance: ClassVar[float] = TOLERANCE
    needs_images: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Short name of the format: the extension of its file."""
        return Path(self.file_name).suffix.removeprefix(".")

    def missing(self) -> list[str]:
        """List the packages that cannot be imported."""
        missing = []
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError:
                missing.append(package)
        return missing

    def require(self) -> None:
        """Check that all packages can be imported.

        Raises:
            MissingDependencyError: Some cannot.
        """
        missing = self.missing()
        if missing:
            raise MissingDependencyError(", ".join(missing), f"the export of {self.file_name}", self.extra)

    @abstractmethod
    def write(self, source: Exportable, folder: Path) -> list[Path]:
        """Write a network.

        Args:
            source: The network, which must not change.
            folder: The folder for the files.

        Returns:
            All written files; the last one is named ``file_name``.
        """

    @abstractmethod
    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Load a network from its written file alone.

        Args:
            path: The file named ``file_name``.

        Returns:
            A function from images as the file takes them, ``(batch, channels, height, width)``, to its outputs,
            ``(batch, classes)``.
        """

    def run(self, path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        """Load a network, and return its outputs for every batch; see ``load``."""
        network = self.load(path)
        return [network(batch) for batch in batches]


class TorchProgram(Format):
    """``network.pt2``: the traced operations with their weights, for torch in Python and C++.

    Example:
        ```bash
        lightning-nas export --ckpt_path runs/first/train/checkpoints/last.ckpt --formats pt2
        ```
    """

    file_name = "network.pt2"
    needs = "only torch, in the version below or a newer one"
    usage = """import json

import torch

extra = {"description.json": ""}
program = torch.export.load("network.pt2", extra_files=extra).module()
about = json.loads(extra["description.json"])
images = torch.rand(2, *about["image_shape"])  # replace by your images, with values in [0, 1]
mean, std = (torch.tensor(about[name]).view(-1, 1, 1) for name in ("mean", "std"))
with torch.no_grad():
    logits = program((images - mean) / std)
names = [about["classes"][i] for i in logits.argmax(dim=1).tolist()]
print(names)"""
    raw_usage = """import json

import torch

extra = {"description.json": ""}
program = torch.export.load("network.pt2", extra_files=extra).module()
about = json.loads(extra["description.json"])
shape = (2, about["image_shape"][0], 96, 128)
images = torch.randint(256, shape, dtype=torch.uint8)  # replace by your images, of any height and width
with torch.no_grad():
    logits = program(images)
names = [about["classes"][i] for i in logits.argmax(dim=1).tolist()]
print(names)"""

    def write(self, source: Exportable, folder: Path) -> list[Path]:
        """Write the traced program; see ``Format.write``."""
        path = folder / self.file_name
        torch.export.save(source.program, path, extra_files={"description.json": source.description.json()})
        return [path]

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Load the program with torch; see ``Format.load``."""
        return torch.export.load(path).module()


class Exported(NamedTuple):
    """A file that an export has written.

    Attributes:
        path: The file. Other files that it needs are in the same folder.
        difference: Largest difference between its outputs and the network's, relative to outputs above 1.
    """

    path: Path
    difference: float


def write_checked(
    original: nn.Module, source: Exportable, folder: str | Path, formats: Sequence[Format]
) -> list[Exported]:
    """Write a network in some formats, or in none of them unless every file does what the network does.

    The files are first written to a temporary folder, loaded from there, and run on the CPU with random batches of
    several sizes.

    Args:
        original: The network whose outputs the files must have; it does not change.
        source: The network that is written.
        folder: The folder for the files.
        formats: The formats to write.

    Returns:
        The written files, in the order of ``formats``.

    Raises:
        ConfigError: The number of class names is not the number of outputs.
        ExportError: A file cannot be written or run, or its outputs differ by more than its ``tolerance``.
        MissingDependencyError: A format needs packages that are not installed.
    """
    for each in formats:
        each.require()
    # building and tracing networks must not change the state of the caller's random number generator
    with tempfile.TemporaryDirectory() as temporary, torch.random.fork_rng(devices=[]), torch.no_grad():
        reference = _Reference(original, source.description)
        drafts = []
        for each in formats:
            tell(f"{INDENT}writing and checking {each.file_name}")
            place = Path(temporary) / each.name
            place.mkdir()
            drafts.append(_draft(each, source, place, reference))
        exported = []
        for files, difference in drafts:
            for file in files:
                with file.open("rb") as content, replacing(Path(folder) / file.name) as target:
                    shutil.copyfileobj(content, target)
            exported.append(Exported(Path(folder) / files[-1].name, difference))
    return exported


class _Reference:
    """Random batches, and the outputs of a network for them on the CPU.

    Raises:
        ConfigError: The number of class names is not the number of outputs.
    """

    def __init__(self, network: nn.Module, description: Description) -> None:
        self.network = description.raw(copy.deepcopy(network).float().cpu().eval())
        self.batches = _random_batches(description)
        self.outputs: list[Tensor] = [self.network(batch) for batch in self.batches]
        classes, shape = len(description.class_names), tuple(self.outputs[0].shape)
        if shape != (CHECKED_BATCHES[0], classes):
            raise ConfigError(
                f"{classes} class names were received, but the network's output for {CHECKED_BATCHES[0]} images has "
                f"shape {shape}. Give one name per output."
            )

    def rounding(self) -> float:
        """Compare the outputs with those of float64; NaN if the network cannot run in float64."""
        exact = copy.deepcopy(self.network).double()
        pairs = zip(self.batches, self.outputs, strict=True)
        try:
            return max(difference(exact(_doubled(batch)), output.double()) for batch, output in pairs)
        except RuntimeError:
            return float("nan")


def _doubled(batch: Tensor) -> Tensor:
    """Floats as float64; pixels stay as they are."""
    return batch if batch.dtype == torch.uint8 else batch.double()


def _random_batches(description: Description) -> list[Tensor]:
    """Batches of all sizes that are checked: of noise, or of random pixels that are larger, smaller or just right."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = description.image_shape
    shapes = [(size, channels, height, width) for size in CHECKED_BATCHES]
    if description.resize is None:
        return [torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32) for shape in shapes]
    others = [(2, channels, 2 * height + 1, width + 5), (1, channels, (height + 1) // 2, (width + 2) // 3)]
    return [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for shape in (*shapes, *others)]


def _draft(written: Format, source: Exportable, folder: Path, reference: _Reference) -> tuple[list[Path], float]:
    """Write one format to a folder of its own, and compare the outputs of its file with the network's."""
    try:
        files = written.write(source, folder)
        received = written.run(files[-1], reference.batches)
    except NASError:
        raise
    except Exception as error:  # tracers, writers and runtimes raise errors of many kinds
        reason = str(error).strip().partition("\n")[0][:300]
        raise ExportError(
            f"{written.file_name} cannot be written or does not run: {type(error).__name__}: {reason}. Check that the "
            f"format supports the operations of the network, or leave '{written.name}' out of the formats."
        ) from error
    differences = [difference(e, r) for e, r in zip(reference.outputs, received, strict=True)]
    for each in differences:
        # written in this way, the comparison refuses NaN
        if not each <= written.tolerance:
            raise ExportError(
                f"The outputs of {written.file_name} differ from the network's by {each:.3g} of their scale; at most "
                f"{written.tolerance:g} is allowed. Rounding to float32 alone changes the network's outputs by "
                f"{reference.rounding():.1e}. If both are of the same size, the network amplifies rounding errors: "
                f"train it longer. Otherwise check that all state of {type(source.network).__name__} is in parameters "
                "and buffers, that 'arguments' contains all constructor arguments, and that the outputs are finite; or "
                f"leave '{written.name}' out of the formats."
            )
    return files, max(differences)


def difference(expected: Tensor, received: Tensor) -> float:
    """Compute the largest difference between outputs, relative to outputs above 1.

    Args:
        expected: Outputs of the network.
        received: Outputs of a written file.

    Returns:
        Infinity if the shapes differ, and NaN if an output is NaN.
    """
    if received.shape != expected.shape:
        return float("inf")
    scale = max(1.0, float(expected.abs().max()))
    return float((received - expected).abs().max()) / scale
