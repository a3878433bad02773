"""What a differentiable search writes, and begins from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import write_tensors
from lightning_nas.supernets.artifact import TrainedSupernet

if TYPE_CHECKING:
    from lightning_nas.tasks.bilevel import BilevelTask

WRITE_SUPERNET = "Write it by a search of this space, with --model.write_supernet true, or check the path."


def write_search(task: "BilevelTask", folder: Path, found: Architecture) -> dict[str, list[Path]]:
    """Write what a search has found: the architecture, the factors of every epoch and, if it says so, the supernet.

    Args:
        task: The search, at its end.
        folder: Where to.
        found: The architecture.

    Returns:
        The files, by the kind of artifact.
    """
    errors = None
    data: Any = getattr(task.trainer, "datamodule", None)
    if task.selection_images and hasattr(data, "fixed_batch"):
        size = min(task.selection_images, len(data.half("search")))
        images, labels = data.fixed_batch("search", size, task.seed)
        errors = task.measure_selection(images.to(task.device), labels.to(task.device)).to_dict()
    written = []
    if task.history:
        stacked = {name: torch.stack([factors[name] for factors in task.history]) for name in task.alphas}
        written.append(write_tensors(folder / "alphas.safetensors", stacked))
    components = (task.hypergradient, task.relaxation, task.normalization, task.discretizer, *task.regularizers)
    path = found.save(
        folder / "architecture.json",
        task=type(task).__name__,
        components=[type(component).__name__ for component in components if component is not None],
        text=task.space.text(found),
        epochs=task.trainer.current_epoch,
        seed=task.seed,
        selection_errors=errors,
    )
    outputs = {"architecture": [path, *written]}
    if task.write_supernet:
        outputs["supernet"] = _write_supernet(task, folder)
    return outputs


def _write_supernet(task: "BilevelTask", folder: Path) -> list[Path]:
    info = {
        "task": type(task).__name__,
        "epochs": task.trainer.current_epoch,
        "seed": task.seed,
        "alphas": {name: alphas.tolist() for name, alphas in task.alphas.items()},
        "edge_alphas": {name: alphas.tolist() for name, alphas in task.edge_alphas.items()},
    }
    classes, shape = task.supernet_arguments["num_classes"], tuple(task.supernet_arguments["image_shape"])
    made = TrainedSupernet(task.supernet, task.space, shape, classes, info)
    path = made.save(folder / "supernet.safetensors")
    return [path, path.with_suffix(".json")]


def begin_from(task: "BilevelTask", path: str) -> None:
    """Take weights and alphas from the supernet that a search has written.

    Args:
        task: The search that begins; its space may be narrower.
        path: ``supernet.safetensors``.

    Raises:
        ArtifactError: It is missing, or of another space, or has no alphas of this shape.
    """
    loaded = TrainedSupernet.load(path, repair=WRITE_SUPERNET)
    loaded.hand_on(task.supernet)
    for kind, own in (("alphas", task.alphas), ("edge_alphas", task.edge_alphas)):
        known = loaded.info.get(kind)
        for name, alphas in own.items():
            if known is None:
                raise ArtifactError(f"{path} has no {kind}: it is of no search. {WRITE_SUPERNET}")
            try:
                values = torch.tensor(known[name], dtype=alphas.dtype)
                if values.shape != alphas.shape or not values.isfinite().all():
                    raise ValueError(f"they are {tuple(values.shape)}, finite {tuple(alphas.shape)} are needed")
            except (TypeError, ValueError, LookupError, RuntimeError) as error:
                raise ArtifactError(
                    f"{path} has no {kind} of {name!r}: {type(error).__name__}, {error!s:.200}. {WRITE_SUPERNET}"
                ) from None
            with torch.no_grad():
                alphas.copy_(values)
