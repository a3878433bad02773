"""Files of a network for programs without this library, each checked against the network before it appears."""

import copy
import importlib
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError, ExportError, MissingDependencyError, NASError
from lightning_nas.files.artifacts import replacing

TOLERANCE = 1e-5
"""Largest difference between the outputs of original and export, relative to outputs above 1."""

TRACED_BATCH = 3
"""Images in the batch that a network is traced with: torch.export makes constants of 0 and 1."""

CHECKED_BATCHES = (1, 2, 5)
"""Images in the batches that a written file is checked with: other ones than the traced."""


@dataclass(frozen=True)
class Description:
    """What a file tells of its network beside the weights.

    Args:
        image_shape: ``(channels, height, width)`` of an image.
        class_names: A name an output.
        mean: Mean of every channel of images in [0, 1]; the network takes ``(image - mean) / std``.
        std: Standard deviation of every channel.
        header: How the network was found, as text.

    Raises:
        ConfigError: Mean or std have not one value a channel.
    """

    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    header: str

    def __post_init__(self) -> None:
        channels = self.image_shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise ConfigError(
                f"mean has {len(self.mean)} and std {len(self.std)} values, but images have {channels} channels."
            )

    def json(self) -> str:
        """What a program needs to use the network: ``image_shape``, ``classes``, ``mean`` and ``std``."""
        content = {"image_shape": self.image_shape, "classes": self.class_names, "mean": self.mean, "std": self.std}
        return json.dumps(content)


@dataclass(frozen=True)
class Exportable:
    """What a format writes.

    Args:
        network: In eval mode, float32, on the CPU, without auxiliary head; its attribute ``arguments`` has its
            constructor arguments.
        description: What to tell of it.
    """

    network: nn.Module
    description: Description

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The network's operations, for any number of images; traced once for all formats."""
        example = torch.zeros(TRACED_BATCH, *self.description.image_shape, device="cpu", dtype=torch.float32)
        batch = torch.export.Dim("batch", min=1, max=2**31 - 1)  # torch 2.6 cannot prove an open end
        program = torch.export.export(self.network, (example,), dynamic_shapes=({0: batch},), strict=False)
        for node in program.graph.nodes:
            # it names folders of this machine, and the files are for others
            node.meta.pop("stack_trace", None)
        return program


class Format(ABC):
    """A kind of file for a network.

    Attributes:
        file_name: Of the file.
        needs: What it takes to use the file, in a few words.
        usage: Python code that loads the file from the current folder and uses it, for the model card. It defines
            ``images`` with values in [0, 1], and ``names``, the classes that the network takes them for.
        packages: What must be installed to write, check and use the file, beside torch.
        extra: The extra of this library that installs them.
    """

    file_name: ClassVar[str]
    needs: ClassVar[str]
    usage: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """Short name, the ending of the file's name."""
        return Path(self.file_name).suffix.removeprefix(".")

    def missing(self) -> list[str]:
        """The packages that cannot be imported."""
        missing = []
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError:
                missing.append(package)
        return missing

    def require(self) -> None:
        """Raise ``MissingDependencyError`` where a package is missing."""
        missing = self.missing()
        if missing:
            raise MissingDependencyError(", ".join(missing), f"the export of {self.file_name}", self.extra)

    @abstractmethod
    def write(self, source: Exportable, folder: Path) -> list[Path]:
        """Write the network.

        Args:
            source: The network; it stays as it is.
            folder: Where to write.

        Returns:
            All files written; the last is the one that is named ``file_name``.
        """

    @abstractmethod
    def run(self, path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        """Load a written file, and only that, and return its outputs for some batches."""


class TorchProgram(Format):
    """``network.pt2``: the traced operations with their weights, for torch in Python and C++."""

    file_name = "network.pt2"
    needs = "only torch, of the version below or a newer one"
    usage = """import json

import torch

extra = {"description.json": ""}
program = torch.export.load("network.pt2", extra_files=extra).module()
about = json.loads(extra["description.json"])
images = torch.rand(2, *about["image_shape"])  # in place of yours, with values in [0, 1]
mean, std = (torch.tensor(about[name]).view(-1, 1, 1) for name in ("mean", "std"))
with torch.no_grad():
    logits = program((images - mean) / std)
names = [about["classes"][i] for i in logits.argmax(dim=1).tolist()]
print(names)"""

    def write(self, source: Exportable, folder: Path) -> list[Path]:
        """See ``Format``."""
        path = folder / self.file_name
        torch.export.save(source.program, path, extra_files={"description.json": source.description.json()})
        return [path]

    def run(self, path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        """See ``Format``."""
        network = torch.export.load(path).module()
        return [network(batch) for batch in batches]


class ONNXModel(Format):
    """``network.onnx``: for ONNX Runtime and other programs that read ONNX.

    Args:
        most: Most bytes of weights that go into the file itself, which must stay under 2 GB; more of them go into
            ``network.onnx.data`` beside it.
    """

    file_name = "network.onnx"
    needs = "ONNX Runtime (`pip install onnxruntime`), or another program that reads ONNX"
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"
    usage = """import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("network.onnx", providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["description"])
images = np.random.rand(2, *about["image_shape"]).astype(np.float32)  # in place of yours, with values in [0, 1]
mean, std = (np.array(about[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
logits = session.run(["logits"], {"images": (images - mean) / std})[0]
names = [about["classes"][i] for i in logits.argmax(axis=1)]
print(names)"""

    def __init__(self, most: int = 1_900_000_000) -> None:
        self.most = most

    def write(self, source: Exportable, folder: Path) -> list[Path]:
        """See ``Format``."""
        path = folder / self.file_name
        # a program has its dynamic dimensions already; here they only get their name
        written: Any = torch.onnx.export(
            source.program,
            (),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        for node in written.model.graph:
            # notes of the exporter, larger than the rest of a small network
            node.metadata_props.clear()
        written.model.metadata_props["description"] = source.description.json()
        weights = sum(value.numel() * value.element_size() for value in source.network.state_dict().values())
        written.save(path, external_data=weights > self.most)
        return [*folder.glob(f"{self.file_name}.*"), path]

    def run(self, path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        """See ``Format``."""
        # not an import statement: it has no type annotations, and where it is not installed mypy says something else
        onnxruntime: Any = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return [torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0]) for batch in batches]


class Exported(NamedTuple):
    """A file that an export has written.

    Attributes:
        path: The file; those that belong to it are beside it.
        difference: Largest difference of outputs between it and the original, relative to outputs above 1.
    """

    path: Path
    difference: float


def write_checked(
    original: nn.Module, source: Exportable, folder: str | Path, formats: Sequence[Format]
) -> list[Exported]:
    """Write a network in some formats, none of them unless each does what the original does.

    The files are written elsewhere first, loaded from there, and run on the CPU for random batches of several sizes.

    Args:
        original: What the files must do; it stays as it is.
        source: What is written.
        folder: Where the files go.
        formats: Of the files.

    Raises:
        ConfigError: There is not one class name for every output.
        ExportError: A file cannot be written or run, or its outputs differ by more than ``TOLERANCE``.
        MissingDependencyError: A format's packages are not installed.
    """
    for each in formats:
        each.require()
    # building and tracing networks must not move the caller's random numbers
    with tempfile.TemporaryDirectory() as temporary, torch.random.fork_rng(devices=[]), torch.no_grad():
        reference = _Reference(original, source.description)
        drafts = []
        for each in formats:
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
    """A copy of a network on the CPU, random batches, and its outputs for them.

    Raises:
        ConfigError: There is not one class name for every output.
    """

    def __init__(self, network: nn.Module, description: Description) -> None:
        self.network = copy.deepcopy(network).float().cpu().eval()
        generator = torch.Generator().manual_seed(0)
        shapes = [(size, *description.image_shape) for size in CHECKED_BATCHES]
        self.batches = [torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32) for shape in shapes]
        self.outputs: list[Tensor] = [self.network(batch) for batch in self.batches]
        classes, shape = len(description.class_names), tuple(self.outputs[0].shape)
        if shape != (CHECKED_BATCHES[0], classes):
            raise ConfigError(
                f"{classes} class names were received, but the network's output for {CHECKED_BATCHES[0]} images has "
                f"shape {shape}. Give one name for every output."
            )

    def rounding(self) -> float:
        """How much float32 alone moves the outputs, against float64; nan where the network cannot run in float64."""
        exact = copy.deepcopy(self.network).double()
        pairs = zip(self.batches, self.outputs, strict=True)
        try:
            return max(difference(exact(batch.double()), output.double()) for batch, output in pairs)
        except RuntimeError:
            return float("nan")


def _draft(written: Format, source: Exportable, folder: Path, reference: _Reference) -> tuple[list[Path], float]:
    """Write one format to a folder of its own and compare what it does."""
    try:
        files = written.write(source, folder)
        received = written.run(files[-1], reference.batches)
    except NASError:
        raise
    except Exception as error:  # tracers, writers and runtimes raise many kinds
        reason = str(error).strip().partition("\n")[0][:300]
        raise ExportError(
            f"{written.file_name} cannot be written or does not run: {type(error).__name__}: {reason}. Check that the "
            f"network's forward fits this format, or leave '{written.name}' out of the formats."
        ) from error
    differences = [difference(e, r) for e, r in zip(reference.outputs, received, strict=True)]
    for each in differences:
        # written so that nan fails
        if not each <= TOLERANCE:
            raise ExportError(
                f"{written.file_name} differs from the original by {each:.3g} of the output's scale; at most "
                f"{TOLERANCE:g} is allowed, and rounding to float32 alone moves the original by "
                f"{reference.rounding():.1e}. Where these are alike, the network amplifies rounding: train it longer. "
                f"Else check that every state of {type(source.network).__name__} is a parameter or a buffer, that "
                "'arguments' holds all constructor arguments, and that outputs are finite; or leave "
                f"'{written.name}' out of the formats."
            )
    return files, max(differences)


def difference(expected: Tensor, received: Tensor) -> float:
    """Largest difference, relative to outputs above 1; infinite for another shape, nan where there is a nan.

    Args:
        expected: Outputs of the original.
        received: Outputs of a written file.
    """
    if received.shape != expected.shape:
        return float("inf")
    scale = max(1.0, float(expected.abs().max()))
    return float((received - expected).abs().max()) / scale
