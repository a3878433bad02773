"""The commands beside Lightning's own: ``export`` and ``report``."""

import argparse
from pathlib import Path
from typing import Any

from lightning_nas.errors import CheckpointError


def trained_network(checkpoint: Path) -> tuple[Any, dict[str, Any]]:
    """The network of a final training's checkpoint in eval mode, and what the checkpoint says of it.

    Args:
        checkpoint: What a ``TrainTask`` saved; nothing else is needed.

    Raises:
        CheckpointError: The file is no checkpoint of a final training.
    """
    from lightning_nas.architecture import Architecture
    from lightning_nas.callbacks.run_config import CHECKPOINT_KEY
    from lightning_nas.cli import read_checkpoint

    content = read_checkpoint(checkpoint)
    if "export" not in content:
        task = content[CHECKPOINT_KEY]["model"]["class_path"]
        raise CheckpointError(
            f"{checkpoint} is of {task}, which has no network to export. Give a checkpoint of "
            "lightning_nas.tasks.train.TrainTask."
        )
    kept: dict[str, Any] = content["export"]
    architecture = Architecture.from_dict(kept["architecture"])
    network = architecture.space.build().network(architecture, **kept["network"])
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(weights)
    return network.eval(), kept


def size(kept: dict[str, Any]) -> dict[str, int]:
    """``parameters`` and ``macs`` of one image, without the auxiliary head, which is a part of training alone.

    Args:
        kept: What ``trained_network`` says of a checkpoint.
    """
    from lightning_nas.architecture import Architecture
    from lightning_nas.metrics.cost import macs, parameters

    architecture = Architecture.from_dict(kept["architecture"])
    counted = architecture.space.build().network(architecture, **{**kept["network"], "auxiliary": False})
    return {"parameters": parameters(counted), "macs": macs(counted, kept["network"]["image_shape"])}


def export_checkpoint(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Write the network of a final training's checkpoint as ``network.py`` and ``network.pt``.

    Args:
        checkpoint: What a ``TrainTask`` saved; nothing else is needed.
        folder: Where the files go.

    Returns:
        ``path``, ``difference`` (largest difference between the outputs of the file and those of the task),
        ``parameters`` and ``macs`` (of one image).

    Raises:
        CheckpointError: The file is no checkpoint of a final training.
        ExportError: The file's outputs differ from the task's by more than 1e-5.
    """
    from lightning_nas.architecture import Architecture
    from lightning_nas.export import export_network

    network, kept = trained_network(checkpoint)
    architecture = Architecture.from_dict(kept["architecture"])
    image_shape = tuple(kept["network"]["image_shape"])
    channels, classes = image_shape[0], kept["network"]["num_classes"]
    exported = export_network(
        network,
        folder,
        image_shape=image_shape,
        class_names=kept["class_names"] or [str(c) for c in range(classes)],
        mean=kept["mean"] or [0.0] * channels,
        std=kept["std"] or [1.0] * channels,
        header=architecture.space.build().text(architecture),
    )
    return {"path": str(exported.path), "difference": exported.difference, **size(kept)}


def export(args: list[str]) -> None:
    """``lightning-nas export``."""
    parser = argparse.ArgumentParser(
        prog="lightning-nas export",
        description="Write a trained network as one plain .py file that needs only torch, with its weights beside it.",
    )
    parser.add_argument("--ckpt_path", type=Path, required=True, help="a checkpoint of TrainTask")
    parser.add_argument("--output_dir", type=Path, default=Path("export"), help="where the files go (default: export)")
    given = parser.parse_args(args)
    done = export_checkpoint(given.ckpt_path, given.output_dir)
    print(f"{done['path']}: {done['parameters']:,} parameters, largest difference to the task {done['difference']:.1e}")


def report(args: list[str]) -> None:
    """``lightning-nas report``."""
    from lightning_nas.report.page import write_report

    parser = argparse.ArgumentParser(
        prog="lightning-nas report", description="Write report.html of a run folder again."
    )
    parser.add_argument("run_dir", type=Path, help="the folder of a pipeline's run")
    print(write_report(parser.parse_args(args).run_dir))
