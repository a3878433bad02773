"""Experts in files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_nas.distill.convnet import ConvNet
from lightning_nas.distill.experts import Experts, named_weights
from lightning_nas.errors import ArtifactError
from tests.distill.fake import CLASSES, DEPTH, PARAMETERS, PATH, SHAPE, WIDTH, flat, wandering


def test_experts_come_back_from_their_files() -> None:
    made = wandering()
    read = Experts.load(made.save(PATH))
    assert torch.equal(read.weights, made.weights)
    assert (read.width, read.depth, read.image_shape, read.num_classes) == (WIDTH, DEPTH, SHAPE, CLASSES)
    assert (read.info, read.epochs) == (made.info, 4)
    torch.manual_seed(1)
    network, x = ConvNet(SHAPE, CLASSES, WIDTH, DEPTH), torch.randn(2, *SHAPE)
    views = named_weights(read.network(), flat(network))
    assert torch.equal(torch.func.functional_call(read.network(), views, (x,)), network(x))


def not_finite(weights: Tensor) -> Tensor:
    weights[1, 2, 3] = float("nan")
    return weights


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: {"weights": w, "other": w.clone()}, "stores .*other"),
        (lambda w: {"weights": w.double()}, "float64"),
        (lambda w: {"weights": w[:, :, 1:].contiguous()}, rf"instead of .*{PARAMETERS}"),
        (lambda w: {"weights": w[:, 0].contiguous()}, "of shape"),
        (lambda w: {"weights": w[:, :1].contiguous()}, "of shape"),
        (lambda w: {"weights": w[:0]}, "(of shape|complete)"),  # older safetensors cannot read what is empty
        (lambda w: {"weights": not_finite(w)}, "not finite"),
    ],
)
def test_foreign_weights_are_refused(change: Callable[[Tensor], dict[str, Tensor]], match: str) -> None:
    wandering().save(PATH)
    save_file(change(load_file(PATH)["weights"]), PATH)
    with pytest.raises(ArtifactError, match=f"(?s){match}.*Make them with"):
        Experts.load(PATH)


@pytest.mark.parametrize(
    "network",
    [
        None,
        [],
        {"width": WIDTH},
        {"width": WIDTH + 1},
        {"width": 4.0},
        {"width": True},
        {"width": 0},
        {"depth": 4},
        {"depth": 60_000},
        {"depth": 10**4000},
        {"num_classes": "3"},
        {"image_shape": 8},
        {"image_shape": [1, 8]},
        {"image_shape": [1, 8, None]},
        {"image_shape": [65_536] * 3, "width": 65_536, "num_classes": 65_536},
        {"width": 10**9, "num_classes": 10**9},
    ],
    ids=lambda n: str(n)[:40],
)
def test_networks_that_do_not_fit_are_refused(network: Any) -> None:
    wandering().save(PATH)
    file = Path("experts.json")
    content = json.loads(file.read_text())
    whole = isinstance(network, dict) and network != {"width": WIDTH}
    content["network"] = {**content["network"], **network} if whole else network
    file.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"experts.json describes.*Make them with") as caught:
        Experts.load(PATH)
    assert len(str(caught.value)) < 1500


def test_missing_and_truncated_files_are_refused() -> None:
    wandering().save(PATH)
    whole, text = Path(PATH).read_bytes(), Path("experts.json").read_text()
    for file, content in ((PATH, whole[:-9]), ("experts.json", text[:-9]), ("experts.json", text[:40] + "}")):
        Path(PATH).write_bytes(whole)
        Path("experts.json").write_text(text)
        Path(file).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ArtifactError, match=f"{file} .*Make them with"):
            Experts.load(PATH)
    Path("experts.json").unlink()
    with pytest.raises(ArtifactError, match=r"experts.json does not exist"):
        Experts.load(PATH)
