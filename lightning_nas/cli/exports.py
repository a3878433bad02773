"""Networks of final trainings as files: from a checkpoint alone, in several formats, with a model card."""

import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightning_nas.data.examples import Examples, Resize
from lightning_nas.errors import CheckpointError, ConfigError, NASError, UnknownClassError
from lightning_nas.files.locks import locked
from lightning_nas.spaces.artifact import architecture_from_dict, build_space
from lightning_nas.spaces.sized import build_network

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
    from torch import Tensor, nn

    from lightning_nas.export.formats import Description, Exported, Format
    from lightning_nas.export.measured import Measured

CHECKED = 32
"""Number of training images that check the preprocessing. Large photographs take a large part of a second each."""

CALIBRATING = 128
"""Number of training images that check it and calibrate a quantized network."""

LARGEST_IMAGE = 2**23
"""Number of values in the largest image that the network of a checkpoint is run on."""

LARGEST_STATE = 2**26
"""Largest product of pixels and channels of the network of a checkpoint. An export runs it on several images, and a
state of its first cell then takes a few gigabytes."""


def trained_network(checkpoint: str | Path) -> tuple[Any, dict[str, Any]]:
    """Build the network of a final training from its checkpoint alone.

    Args:
        checkpoint: Path or URL of a checkpoint of a ``TrainTask``.

    Returns:
        The network in evaluation mode, and its description in the checkpoint: ``architecture``, ``network`` (sizes),
        ``class_names``, ``mean``, ``std`` and, where known, ``data``.

    Raises:
        CheckpointError: The file is not a checkpoint of a final training, or it is damaged.
        UnknownClassError: It names a class that is not imported, such as one of the user's own.
    """
    import torch

    from lightning_nas.files.checkpoints import CHECKPOINT_KEY, read_checkpoint

    content = read_checkpoint(checkpoint)
    if "export" not in content:
        task = content[CHECKPOINT_KEY]["model"]["class_path"]
        raise CheckpointError(
            f"{checkpoint} is of {task}, which does not train the network of an architecture. Give a checkpoint of "
            "TrainTask with an architecture."
        )
    kept: dict[str, Any] = content["export"]
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    try:
        _check_kept(kept, len(weights))
        architecture = architecture_from_dict(kept["architecture"])
        space = build_space(architecture.space)
        with torch.device("meta"):  # no memory is allocated for sizes that are not those of the weights
            expected = build_network(space, architecture, **kept["network"]).state_dict()
        forms = [{k: (v.shape, v.is_complex()) for k, v in each.items()} for each in (weights, expected)]
        if forms[0] != forms[1]:
            raise CheckpointError("its weights are not of the network that it describes")
        network = build_network(space, architecture, **kept["network"])
        network.load_state_dict(weights)
    except UnknownClassError:
        raise
    except (NASError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint} is damaged or was tampered with, and has no network to export ({str(error):.300}). Use "
            "another checkpoint of the training."
        ) from None
    return network.eval(), kept


def _check_kept(kept: Any, tensors: int) -> None:
    """Refuse a description that cannot be that of the network.

    Raises:
        CheckpointError: An entry is of a wrong type, or too large for a network with so many tensors.
    """
    network = kept["network"]
    shape, channels, cells = network["image_shape"], network.get("channels", 1), network.get("cells", 1)
    numbers = [*shape, network["num_classes"], channels, cells]
    if not all(type(n) is int and n > 0 for n in numbers) or len(shape) != 3:
        raise CheckpointError(f"its sizes are {reprlib.repr(network)}")
    if math.prod(shape) > LARGEST_IMAGE or math.prod(shape[1:]) * channels > LARGEST_STATE:
        raise CheckpointError(
            f"its images of shape {tuple(shape)}, with {channels} channels of the network, are too large to "
            f"run it on: at most {LARGEST_IMAGE} values, and {LARGEST_STATE} pixels times channels"
        )
    if cells > max(100, tensors):  # building a cell takes time, and most cells have weights of their own
        raise CheckpointError(f"it has {tensors} tensors for {cells} cells")
    lists = {"class_names": (str,), "mean": (float, int), "std": (float, int)}
    lengths = {"class_names": network["num_classes"], "mean": shape[0], "std": shape[0]}
    for key, kinds in lists.items():
        values = kept[key]
        fits = isinstance(values, list) and all(type(v) in kinds for v in values)
        if not fits or len(values) not in (0, lengths[key]):
            raise CheckpointError(f"its {key} are {reprlib.repr(values)}, not {lengths[key]} values")
    if not all(math.isfinite(v) for v in (*kept["mean"], *kept["std"])) or not all(v > 0 for v in kept["std"]):
        raise CheckpointError("its mean and std are not finite, or a standard deviation is not above 0")
    data = kept.get("data", {})
    kinds_of_data = {"class": str, "train_images": int, "title": str, "resize": str}
    wrong = not isinstance(data, dict) or any(type(v) is not kinds_of_data.get(k) for k, v in data.items())
    if wrong or data.get("resize", "bilinear") not in get_args(Resize):
        raise CheckpointError(f"its data are {reprlib.repr(data)}")


def size(kept: dict[str, Any]) -> dict[str, int]:
    """Count parameters, and multiply-accumulates for one image, without the auxiliary head, which only training needs.

    Args:
        kept: Description of the network, from ``trained_network``.

    Returns:
        ``parameters`` and ``macs``.
    """
    from lightning_nas.metrics.cost import macs, parameters

    architecture = architecture_from_dict(kept["architecture"])
    counted = build_network(build_space(architecture.space), architecture, **{**kept["network"], "auxiliary": False})
    return {"parameters": parameters(counted), "macs": macs(counted, kept["network"]["image_shape"])}


def choose_formats(names: Sequence[str] | None) -> "list[Format]":
    """Choose export formats by name.

    Args:
        names: Some of ``py``, ``pt2``, ``onnx`` and ``onnx_int8``. None chooses all formats that need no images and
            whose packages are installed, and prints a line for every other one of the former.

    Raises:
        ConfigError: A name is unknown, or the list is empty.
        MissingDependencyError: The packages of a named format are not installed.
    """
    from lightning_nas.export.network import FORMATS

    known = [each.name for each in FORMATS]
    wrong = [name for name in names or () if name not in known]
    if wrong or (names is not None and not names):
        raise ConfigError(f"The export formats are {list(names or ())}; choose one or more of {known}.")
    if names is not None:
        named = [each for each in FORMATS if each.name in names]
        for each in named:
            each.require()
        return named
    chosen = []
    for each in (each for each in FORMATS if not each.needs_images):
        missing = each.missing()
        if missing:
            print(
                f"{each.file_name} is left out, because these cannot be imported: {', '.join(missing)}. To get it: "
                f'pip install "lightning_nas[{each.extra}]"'
            )
        else:
            chosen.append(each)
    return chosen


def export_checkpoint(
    checkpoint: str | Path,
    folder: Path,
    *,
    formats: Sequence[str] | None = None,
    figures: Mapping[str, float] | None = None,
    evidence: Mapping[str, Any] | None = None,
    compared: Sequence[Mapping[str, Any]] = (),
    licence: str = "not stated",
    overwrite: bool = True,
    raw_images: bool = True,
    data: "LightningDataModule | None" = None,
) -> dict[str, Any]:
    """Write the network of a final training in some formats, with a model card, from its checkpoint.

    Args:
        checkpoint: Path or URL of a checkpoint of a ``TrainTask``.
        folder: Folder for the files.
        formats: Some of ``py`` (``network.py`` and ``network.pt``), ``pt2``, ``onnx`` and ``onnx_int8``; by default all
            but the last one whose packages are installed, with a printed line for every other one.
        figures: Measured values for the model card: ``test_accuracy`` as a fraction, and others.
        evidence: How sure the test accuracy is, for the model card: ``test_images`` and ``comparisons``; see
            ``ModelCard``.
        compared: This network and others that were trained alike, for the model card; see ``ModelCard``.
        licence: Licence of the network for the model card.
        overwrite: Whether files of another export, and a ``README.md``, may be replaced.
        raw_images: Whether the files take raw images, uint8 of any height and width, and resize and normalize them
            themselves. Otherwise, and where the checkpoint does not know the normalization, they take normalized
            floats.
        data: Data module of the training. Its images check the preprocessing, calibrate ``onnx_int8``, and measure the
            accuracy of that file.

    Returns:
        ``path`` and ``difference`` (largest difference between the outputs of the file and those of the task) of the
        first file, which is ``network.py`` by default; ``files``, both for every file; ``card``, the path of the
        model card; ``parameters`` and ``macs`` (multiply-accumulates for one image); ``measured``, see ``Measured``.

    Raises:
        CheckpointError: The file is not a checkpoint of a final training.
        ConfigError: A format is unknown or needs ``data``, a figure is impossible, the folder has files that may not be
            replaced, or another process writes to it.
        DataError: The images cannot be read.
        ExportError: The outputs of a file differ from those of the task by more than 1e-5, or its preprocessing from
            that of the data module. No file is written.
        MissingDependencyError: The packages of a named format are not installed. No file is written.
    """
    from lightning_nas.export.measured import Measured
    from lightning_nas.export.model_card import ModelCard, check_figures
    from lightning_nas.export.network import export_files

    chosen = choose_formats(formats)
    check_figures(figures or {})
    _check_has_images(chosen, data)
    if not overwrite:
        _check_free(folder)
    network, kept = trained_network(checkpoint)
    description = describe(kept, raw_images=raw_images)
    if raw_images and description.resize is None:
        print("The files take normalized floats: the checkpoint does not know the normalization of its data.")
    cost = size(kept)
    count = CALIBRATING if any(each.needs_images for each in chosen) else CHECKED
    make_examples = getattr(data, "examples", None)
    examples: Examples | None = None if make_examples is None else make_examples(count)
    levels = _compare(description, data, examples)
    with locked(folder):
        if not overwrite:  # another export may have ended in the meantime
            _check_free(folder)
        exported = export_files(network, folder, description, chosen, _taken(description, examples))
        measured = Measured(
            examples=0 if examples is None or levels is None else len(examples.originals),
            levels=levels,
            **_measure(network, chosen, exported, description, data),
        )
        card = ModelCard(
            space=architecture_from_dict(kept["architecture"]).space.class_path,
            description=description,
            formats=chosen,
            exported=exported,
            cost=cost,
            data=kept.get("data", {}),
            figures=figures or {},
            compared=compared,
            normalisation_known=bool(kept["mean"]),
            licence=licence,
            measured=measured,
            **(evidence or {}),
        )
        path = card.write(folder)
    files = [{"path": str(each.path), "difference": each.difference} for each in exported]
    return {**files[0], "files": files, "card": str(path), "measured": measured, **cost}


def load_data(config: str) -> Any:
    """Build the data module of a training.

    Args:
        config: Path of the training's configuration, or the name of a shipped one.

    Raises:
        ConfigError: There is no such file, or it is no configuration of a training.
        DataError: The data module refuses its arguments.
    """
    from lightning.pytorch import LightningDataModule

    from lightning_nas.cli.config_files import find_config
    from lightning_nas.cli.lightning import build, check_config

    parsed = check_config(find_config(config))
    if parsed.get("data") is None:
        raise ConfigError(f"{config} has no data. Give the configuration of the training.")
    return build(LightningDataModule, parsed.data)


def measured_lines(measured: "Measured") -> Iterator[str]:
    """Say what was measured of exported files on real images, as far as it was."""
    if measured.levels is not None:
        yield (
            f"raw images: largest difference of a pixel to the data module {measured.levels:.2f} of 255 levels, on "
            f"{measured.examples} training images"
        )
    for each in measured.accuracies:
        yield (
            f"{each.file}: accuracy {100 * each.accuracy:.2f}% on {measured.images:,} {measured.part} images; the "
            f"network has {100 * (measured.accuracy or 0):.2f}%, and says something else about {each.changed:,} of them"
        )


def _check_has_images(chosen: Sequence["Format"], data: Any) -> None:
    """Refuse formats that need images where there are none.

    Raises:
        ConfigError: The data of the training are missing, or give no images.
    """
    needing = [each.name for each in chosen if each.needs_images]
    if needing and not hasattr(data, "examples"):
        received = "no data were given" if data is None else f"{type(data).__name__} has no method 'examples'"
        raise ConfigError(
            f"The format {needing[0]} is calibrated and measured with images, but {received}. Give the configuration "
            f"of the training, --config FILE, whose data are an ImageDataModule, or leave {needing[0]} out."
        )


def _compare(description: "Description", data: Any, examples: Examples | None) -> float | None:
    """Compare the preprocessing of the files with that of the data module.

    Returns:
        The largest difference of a pixel in 255 levels; None where it cannot be known, for which the reason is printed.
    """
    from lightning_nas.export.measured import check_preprocessing

    if description.resize is None:
        return None
    if examples is None:
        unknown = "--config FILE gives it the data" if data is None else f"{type(data).__name__} has no 'examples'"
    elif not _are_pixels(examples):
        unknown = "the training images are floats"
    else:
        return check_preprocessing(description, examples)
    print(f"The preprocessing of the files is not compared with that of the training: {unknown}.")
    return None


def _are_pixels(examples: Examples) -> bool:
    import torch

    return next(iter(examples.originals)).dtype == torch.uint8


def _taken(description: "Description", examples: Examples | None) -> "Iterable[Tensor]":
    """Training images as the files take them, as far as there are any."""
    if examples is None:
        return ()
    if description.resize is None:
        return examples.prepared.float().cpu()
    return examples.originals if _are_pixels(examples) else ()


def _measure(
    network: "nn.Module",
    formats: Sequence["Format"],
    exported: Sequence["Exported"],
    description: "Description",
    data: Any,
) -> dict[str, Any]:
    """Measure the latency of all files, and the accuracy of those that do not compute exactly what the network does."""
    import torch

    from lightning_nas.export.measured import measure_accuracies, measure_latencies

    loaded = {file.path.name: each.load(file.path) for each, file in zip(formats, exported, strict=True)}
    found = {"latencies": measure_latencies(loaded, description), "threads": torch.get_num_threads()}
    inexact = {each.file_name: loaded[each.file_name] for each in formats if each.needs_images}
    if not inexact:
        return found
    names = ("part", "images", "accuracy", "accuracies")
    accuracies = measure_accuracies(network, inexact, data, description.resize is not None)
    return found | dict(zip(names, accuracies, strict=True))


def _check_free(folder: Path) -> None:
    """Refuse a folder with files that an export would replace.

    Raises:
        ConfigError: There are such files.
    """
    there = sorted(path.name for name in ("network.*", "README.md") for path in folder.glob(name))
    if there:
        raise ConfigError(
            f"{folder} has {', '.join(there)}, which the export would replace. Name another --output_dir, or add "
            "--overwrite."
        )


def describe(kept: Mapping[str, Any], raw_images: bool = False) -> "Description":
    """Describe a network for its files: images, classes, normalisation, and the architecture as text.

    Args:
        kept: Description of the network, from ``trained_network``. Where it lacks names or normalisation, classes are
            numbered, and images are taken as they are.
        raw_images: Whether the files take raw images, if the normalization is known.
    """
    from lightning_nas.export.formats import Description

    architecture = architecture_from_dict(kept["architecture"])
    image_shape = tuple(kept["network"]["image_shape"])
    channels, classes = image_shape[0], kept["network"]["num_classes"]
    return Description(
        image_shape=image_shape,
        class_names=tuple(kept["class_names"] or [str(c) for c in range(classes)]),
        mean=tuple(kept["mean"] or [0.0] * channels),
        std=tuple(kept["std"] or [1.0] * channels),
        header=build_space(architecture.space).text(architecture),
        resize=kept.get("data", {}).get("resize", "bilinear") if raw_images and kept["mean"] else None,
    )
