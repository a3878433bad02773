"""How sure one can be of what a run found: networks compared on the same test images, and the candidates' costs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_nas.errors import NASError
from lightning_nas.evaluation.base import Evaluation, sign_of
from lightning_nas.files.artifacts import read_json, read_tensors, write_json
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.metrics.paired import sign_test
from lightning_nas.report.front import Front
from lightning_nas.report.tested import IMAGES
from lightning_nas.spaces.artifact import architecture_from_dict, load_architecture
from lightning_nas.strategies.base import Result
from lightning_nas.terminal import Progress

SIGNIFICANT = 0.05
"""Probability below which two networks are told apart."""

CANDIDATES = 40
"""Number of the best candidates whose costs are measured, which takes a few seconds."""


def read_correct(run_dir: Path, stages: Sequence[str]) -> tuple[Tensor, Tensor] | None:
    """Read with which share of its trainings a network is right about every test image.

    Args:
        run_dir: Run folder.
        stages: Names of the trainings of the network.

    Returns:
        The shares and the labels, both ``(images,)``; None where a training has no results by image.

    Raises:
        ArtifactError: A file is damaged.
    """
    paths = [run_dir / stage / IMAGES for stage in stages]
    if not all(path.is_file() for path in paths):
        return None
    found = [read_tensors(path, repair="Delete the folder of its stage to run it again.") for path in paths]
    return torch.stack([(each["predicted"] == each["labels"]).float() for each in found]).mean(0), found[0]["labels"]


def compare_on_images(run_dir: Path, found: Sequence[str], other: Sequence[str]) -> dict[str, Any]:
    """Compare two networks on the same test images.

    Args:
        run_dir: Run folder.
        found: Names of the trainings of the found network.
        other: Those of the other network.

    Returns:
        ``better``, ``worse`` and ``ties`` (numbers of images), ``p``, and ``verdict``: ``better``, ``worse`` or
        ``equal``. All are None where results by image are missing or of other images.
    """
    both = read_correct(run_dir, found), read_correct(run_dir, other)
    if both[0] is None or both[1] is None or not both[0][1].equal(both[1][1]):
        return dict.fromkeys(("better", "worse", "ties", "p", "verdict"))
    test = sign_test(both[0][0], both[1][0])
    verdict = "equal" if test.p >= SIGNIFICANT else "better" if test.better > test.worse else "worse"
    return {**test._asdict(), "verdict": verdict}


def write_candidates(run_dir: Path, folders: Sequence[Path], costs: Callable[[], NetworkCosts]) -> Path | None:
    """Write the costs of the best candidates of the last search by queries, at the size of the final network.

    Args:
        run_dir: Run folder.
        folders: Folders that stages write to, in their order.
        costs: Makes what measures the costs, where there are candidates.

    Returns:
        ``candidates.json``, in the form of a front; None where no stage evaluated candidates.
    """
    histories = [folder / "history.json" for folder in folders if (folder / "history.json").is_file()]
    if not histories:
        return None
    content = read_json(histories[-1], repair="Run its stage again.")
    objective = str(content["objective"])
    space = load_architecture(histories[-1].parent / "architecture.json").to_dict()["space"]
    last: dict[str, dict[str, Any]] = {str(row["choices"]): row for row in content["history"]}
    rows = sorted(last.values(), key=lambda row: -sign_of(objective) * row["objectives"][objective])
    results: list[Result] = []
    measure, progress = costs(), Progress("multiply-accumulates of candidates", len(rows[:CANDIDATES]))
    for row in rows[:CANDIDATES]:
        progress.step()
        try:
            candidate = architecture_from_dict({"space": space, "choices": row["choices"]})
            measured = measure.costs(candidate)
            cost = {name: float(measured[name]) for name in ("macs", "parameters")}
        except NASError:
            continue  # a candidate of a pruned space may not have such a network
        results.append((candidate, Evaluation({objective: float(row["objectives"][objective])}, cost)))
    if not results:
        return None
    return write_json(run_dir / "candidates.json", Front(results, objective, ["macs", "parameters"]).to_dict())
