"""Networks compared on the same test images, and the costs of candidates."""

from pathlib import Path

import pytest
import torch

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import write_json, write_tensors
from lightning_nas.metrics.network_costs import NetworkCosts
from lightning_nas.pipeline.evidence import compare_on_images, read_correct, write_candidates
from lightning_nas.pipeline.stages import IMAGES
from lightning_nas.report.front import Front
from lightning_nas.spaces.nasbench201.space import NASBench201Space

LABELS = torch.arange(20) % 4


def write(run_dir: Path, stage: str, wrong: int, labels: torch.Tensor = LABELS) -> None:
    predicted = labels.clone()
    predicted[:wrong] += 1
    tensors = {"labels": labels, "predicted": predicted, "confidence": torch.ones(len(labels))}
    write_tensors(run_dir / stage / IMAGES, tensors)


def test_networks_are_compared_image_by_image(tmp_path: Path) -> None:
    for stage, wrong in (("train", 1), ("train_seed_1", 2), ("random_0", 9), ("random_0_seed_1", 9), ("alike", 1)):
        write(tmp_path, stage, wrong)
    found = compare_on_images(tmp_path, ["train"], ["random_0"])
    assert found == {"better": 8, "worse": 0, "ties": 12, "p": 2 / 256, "verdict": "better"}
    assert compare_on_images(tmp_path, ["random_0"], ["train"])["verdict"] == "worse"
    assert compare_on_images(tmp_path, ["train"], ["alike"])["verdict"] == "equal"
    both = compare_on_images(tmp_path, ["train", "train_seed_1"], ["random_0", "random_0_seed_1"])
    assert (both["better"], both["ties"]) == (8, 12)  # of the second image half is right
    shares = read_correct(tmp_path, ["train", "train_seed_1"])
    assert shares is not None
    assert shares[0][:3].tolist() == [0, 0.5, 1]


def test_without_results_of_the_same_images_nothing_is_claimed(tmp_path: Path) -> None:
    write(tmp_path, "train", 1)
    write(tmp_path, "other", 1, LABELS.flip(0))
    unknown = dict.fromkeys(("better", "worse", "ties", "p", "verdict"))
    assert compare_on_images(tmp_path, ["train"], ["random_0"]) == unknown
    assert compare_on_images(tmp_path, ["train"], ["other"]) == unknown
    (tmp_path / "train" / IMAGES).write_bytes(b"broken")
    with pytest.raises(ArtifactError, match="Delete the folder of its stage"):
        compare_on_images(tmp_path, ["train"], ["other"])


def test_the_costs_of_candidates_are_those_of_the_final_network(tmp_path: Path) -> None:
    space, costs = NASBench201Space(), NetworkCosts(channels=2, cells=1, num_classes=3, image_shape=(1, 8, 8))
    assert write_candidates(tmp_path, [tmp_path], pytest.fail) is None
    generator = torch.Generator().manual_seed(0)
    drawn = [space.sample(generator) for _ in range(3)]
    drawn[0].save(tmp_path / "architecture.json")
    rows = [{"choices": list(each.choices), "objectives": {"score": float(i)}} for i, each in enumerate(drawn)]
    again = {**rows[0], "objectives": {"score": 9.0}}  # the last score of an architecture counts
    write_json(tmp_path / "history.json", {"objective": "score", "history": [*rows, again]})
    path = write_candidates(tmp_path, [tmp_path], lambda: costs)
    assert path is not None
    front = Front.load(path)
    assert [point[0] for point in front.points] == [9.0, 2.0, 1.0]
    assert front.points[0][1:] == (costs.costs(drawn[0])["macs"], costs.costs(drawn[0])["parameters"])
