"""The rows that compare proxies: their bytes, images and steps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.proxies import CONFIGS
from benchmarks.proxy_rows import SIZES, fitting, rows_of
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.difficulty import DifficultySelection
from lightning_nas.distill.images import PlainImages, RandomSubset
from lightning_nas.distill.proxy import Proxy
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.pipeline.config import merge, read_yaml
from tests.helpers import started

ROWS = rows_of(300, 64, 900)
SCHEMES = (RandomSubset, PlainImages, HallucinatedBases, RelationMappings)


def config_of(row: str) -> dict[str, Any]:
    """The configuration of a distillation."""
    return merge(read_yaml(CONFIGS / "distill" / f"{ROWS[row].config}.yaml"), ROWS[row].changes)


IMAGES = {"random subset": (1_229_600, 100), "random subset, a byte a pixel": (4_918_400, 400)}
MADE = {"distribution matching": (1_229_600, 100), "scheme 1": (1_218_000, 450), "scheme 2": (850_832, 500)}


@pytest.fixture(scope="module")
def real() -> tuple[Tensor, Tensor]:
    """50 images of each of 10 classes, as large as those of CIFAR-10."""
    labels = torch.arange(500) % 10
    return torch.randn(500, 3, 32, 32, generator=torch.Generator().manual_seed(0)), labels


@pytest.mark.parametrize("row", [*IMAGES, *MADE])
def test_proxies_have_the_bytes_and_images_of_the_table(row: str, real: tuple[Tensor, Tensor]) -> None:
    named = config_of(row)["model"]["init_args"]["scheme"]
    (kind,) = (each for each in SCHEMES if each.__name__ == named["class_path"].rpartition(".")[2])
    scheme = started(kind(**named["init_args"]), *real)
    assert (scheme.stored_bytes, len(scheme.proxy().labels)) == {**IMAGES, **MADE}[row]


@pytest.mark.parametrize(("row", "steps"), [("scheme 1", 30), ("scheme 2, gradient matching", 6)])
def test_distillations_take_the_steps_of_the_table(row: str, steps: int) -> None:
    config = config_of(row)
    assert config["trainer"]["max_epochs"] == 10
    assert config["data"]["init_args"].items() >= {"steps_per_epoch": steps, "images_per_class": 32}.items()
    assert config["model"]["init_args"]["matcher"]["init_args"]["width"] == 64


OF_A_SIZE = {
    "random subset, 8 bits, 77 kB": (76_874, 100),
    "random subset, 2 bits, 350 kB": (348_449, 1810),
    "easy half, 4 bits, 77 kB": (76_924, 200),
    "distribution matching from the easy half, 3 bits, 77 kB": (75_034, 260),
    "scheme 1 from the easy half, 4 bits, 77 kB": (73_736, 900),
    "scheme 2, 32 components, 4 bits, 77 kB": (76_930, 4000),
}


@pytest.mark.parametrize("row", OF_A_SIZE)
def test_rows_of_a_size_fill_it(row: str) -> None:
    """With as many images as fit; what images are chosen doesn't matter here."""
    named = config_of(row)["model"]["init_args"]["scheme"]
    (kind,) = (each for each in SCHEMES if each.__name__ == named["class_path"].rpartition(".")[2])
    chosen = {"selection": DifficultySelection(width=1, depth=1, epochs=1)} if "selection" in named["init_args"] else {}
    images, labels = torch.randn(4010, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4010) % 10
    scheme = started(kind(**{**named["init_args"], **chosen}), images, labels)
    proxy = Proxy(scheme, [str(c) for c in range(10)], [0.5] * 3, [0.2] * 3, {}, ROWS[row].bits)
    assert (proxy.stored_bytes, len(proxy.labels)) == OF_A_SIZE[row]


def test_as_many_images_as_fit() -> None:
    assert fitting(77_000, 768 * 8, 0) == 10
    assert fitting(77_000, 768 * 8, 200) == 10
    assert fitting(77_000, 768 * 8, 201) == 9
    for name, row in ROWS.items():
        label = next((label for label in SIZES if name.endswith(label)), None)
        assert (label is None) == (row.bits == 32 or name == "all images, 16 pixels")
        assert (row.side == 16) == (row.bits < 32)


def test_rows_from_the_easy_half_leave_images_to_choose_from() -> None:
    easy = [config_of(name)["model"]["init_args"]["scheme"]["init_args"] for name in ROWS if "easy half" in name]
    assert len(easy) > 9
    for each in easy:
        assert each.get("images_per_class", each.get("bases_per_class")) <= 450
        assert each["selection"]["init_args"].items() >= {"keep": "easy", "fraction": 0.5, "width": 64}.items()
