"""The files that a differentiable search writes and starts from, and what it refuses to start with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.architecture import Architecture
from lightning_nas.differentiable.model import SearchModel
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.files.artifacts import write_tensors
from lightning_nas.spaces.attention import Attention
from lightning_nas.supernets.artifact import TrainedSupernet

WRITE_SUPERNET = "Write it by a search of this space, with --model.write_supernet true, or check the path."


def check_supernet_file(attention: Attention | None, supernet_path: str | None, write_supernet: bool) -> None:
    """Refuse a supernet between two runs that would lose the weights of its attention.

    Args:
        attention: Attention inside the supernet, if there is any.
        supernet_path: File that the search starts from, if it does.
        write_supernet: Whether the search writes such a file.

    Raises:
        ConfigError: There is attention and a file.
    """
    if attention is not None and (supernet_path is not None or write_supernet):
        raise ConfigError(
            f"supernet.safetensors has no place for the weights of {type(attention).__name__}. Leave attention out, or "
            "supernet_path: null and write_supernet: false."
        )


def write_search(
    folder: Path,
    found: Architecture,
    model: SearchModel,
    history: Sequence[Mapping[str, Tensor]],
    provenance: Mapping[str, Any],
    *,
    supernet: bool = False,
) -> dict[str, list[Path]]:
    """Write what a search has found: ``architecture.json`` and, if there is a history, ``alphas.safetensors``.

    Args:
        folder: Folder of the files.
        found: The architecture.
        model: The model of the search.
        history: Factors ``(edges, operations)`` by cell type after every epoch.
        provenance: How the architecture was found, as JSON values.
        supernet: Whether to write ``supernet.safetensors`` too; see ``write_supernet``.

    Returns:
        The files by kind of artifact: ``architecture``, with the alphas, and ``supernet``.
    """
    files = [found.save(folder / "architecture.json", **provenance)]
    if history:
        stacked = {name: torch.stack([factors[name] for factors in history]) for name in model.alphas}
        files.append(write_tensors(folder / "alphas.safetensors", stacked))
    return {"architecture": files, **({"supernet": write_supernet(folder, model, provenance)} if supernet else {})}


def write_supernet(folder: Path, model: SearchModel, provenance: Mapping[str, Any]) -> list[Path]:
    """Write ``supernet.safetensors`` with the alphas, for a task that starts from it, and its JSON file.

    Args:
        folder: Folder of the files.
        model: The model of the search.
        provenance: How the architecture was found; task, epochs and seed of it are written.

    Returns:
        Both files, the weights first.
    """
    alphas = {"alphas": _plain(model.alphas), "edge_alphas": _plain(model.edge_alphas)}
    made = {**{key: provenance[key] for key in ("task", "epochs", "seed")}, **alphas}
    trained = TrainedSupernet(model.supernet, model.space, model.image_shape, model.num_classes, made)
    path = trained.save(folder / "supernet.safetensors")
    return [path, path.with_suffix(".json")]


def _plain(alphas: nn.ParameterDict) -> dict[str, Any]:
    return {name: values.tolist() for name, values in alphas.items()}


def start_from(model: SearchModel, path: str) -> TrainedSupernet:
    """Take over weights and alphas from the supernet that a search has written.

    Args:
        model: The model that starts from it; its space may be narrower.
        path: ``supernet.safetensors``.

    Returns:
        The supernet with what is known about it.

    Raises:
        ArtifactError: The file is missing, belongs to another space, or has no alphas of this shape.
    """
    loaded = TrainedSupernet.load(path, repair=WRITE_SUPERNET)
    loaded.hand_on(model.supernet)
    for kind, own in (("alphas", model.alphas), ("edge_alphas", model.edge_alphas)):
        known = loaded.info.get(kind)
        for name, alphas in own.items():
            if known is None:
                raise ArtifactError(f"{path} has no {kind}: no search wrote it. {WRITE_SUPERNET}")
            try:
                values = torch.tensor(known[name], dtype=alphas.dtype)
                if values.shape != alphas.shape or not values.isfinite().all():
                    raise ValueError(f"their shape is {tuple(values.shape)}, finite {tuple(alphas.shape)} are needed")
            except (TypeError, ValueError, LookupError, RuntimeError) as error:
                raise ArtifactError(
                    f"{path} has no {kind} of {name!r}: {type(error).__name__}, {error!s:.200}. {WRITE_SUPERNET}"
                ) from None
            with torch.no_grad():
                alphas.copy_(values)
    return loaded
