"""Raw images of any size, against Pillow and torch."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn

from lightning_nas.errors import ConfigError
from lightning_nas.export.formats import Description, Format, TorchProgram
from lightning_nas.export.network import PlainFile, export_files
from lightning_nas.export.onnx_models import ONNXModel
from lightning_nas.export.preprocessing import Preprocessing
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from tests.export.conftest import Build

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"
SIZES = [(16, 16), (40, 61), (61, 40), (17, 16), (9, 12), (200, 30), (16, 1), (1, 1)]
SHAPE = (3, 16, 16)


def pixels(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resizing_is_that_of_pillow_but_for_its_rounding(height: int, width: int) -> None:
    images = pixels(height, width)
    fitted = []
    for image in images:
        whole = Image.fromarray(image.permute(1, 2, 0).numpy())
        fitted.append(np.array(ImageOps.fit(whole, SHAPE[1:], Image.Resampling.BILINEAR)))
    expected = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).float()
    own = Preprocessing(SHAPE, (0.0,) * 3, (1 / 255,) * 3)(images)
    assert own.shape == (2, *SHAPE)
    assert float((own - expected).abs().max()) <= (1e-4 if (height, width) == SHAPE[1:] else 1.0)
    assert float((own - expected).mean().abs()) < 0.3  # nothing is shifted; halves are rounded up


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_averaging_is_that_of_torch(height: int, width: int) -> None:
    images = pixels(height, width)
    own = Preprocessing(SHAPE, (0.0,) * 3, (1 / 255,) * 3, "area")(images)
    assert torch.allclose(own, F.adaptive_avg_pool2d(images.float(), SHAPE[1:]), atol=1e-3)


def test_an_image_of_the_right_size_is_only_normalized() -> None:
    images, mean, std = pixels(16, 16), (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    expected = (images.float() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    for resize in ("bilinear", "area"):
        assert torch.equal(Preprocessing(SHAPE, mean, std, resize)(images), expected)


def test_the_shorter_side_fits_images_that_are_not_square() -> None:
    wide = Preprocessing((3, 8, 16), (0.0,) * 3, (1 / 255,) * 3)
    picture = pixels(80, 300)[:1]
    expected = ImageOps.fit(Image.fromarray(picture[0].permute(1, 2, 0).numpy()), (16, 8), Image.Resampling.BILINEAR)
    difference = wide(picture)[0] - torch.from_numpy(np.array(expected)).permute(2, 0, 1)
    assert float(difference.abs().max()) <= 1.0


@pytest.mark.parametrize(
    "images", [torch.rand(2, 3, 16, 16), pixels(9, 9)[:, :1], pixels(9, 9)[0]], ids=["floats", "grey", "one"]
)
def test_images_of_another_kind_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected torch\.uint8 \(batch, 3, height, width\)"):
        Preprocessing(SHAPE, (0.5,) * 3, (0.2,) * 3)(images)


def describe(resize: str | None) -> Description:
    return Description(SHAPE, ("a", "b", "c"), (0.2, 0.3, 0.4), (0.5, 0.6, 0.7), "", resize=resize)


def network() -> nn.Module:
    torch.manual_seed(1)
    space = NASBench201Space()
    return space.network(space.parse(CELL), num_classes=3, image_shape=SHAPE, channels=4, cells=1).eval()


def formats() -> list[Format]:
    plain: list[Format] = [PlainFile(), TorchProgram()]
    return plain if ONNXModel().missing() else [*plain, ONNXModel()]


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["bilinear", "area"])
def test_files_take_raw_images_of_any_size(resize: str, tmp_path: Path) -> None:
    original = network()
    exported = export_files(original, tmp_path, describe(resize), formats())
    own = Preprocessing(SHAPE, (0.2, 0.3, 0.4), (0.5, 0.6, 0.7), resize)
    for each, file in zip(formats(), exported, strict=True):
        loaded = each.load(file.path)
        for height, width in ((16, 16), (55, 31), (5, 40)):
            images = pixels(height, width)
            with torch.no_grad():
                assert torch.allclose(loaded(images), original(own(images)), atol=1e-5)


def imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_file_still_has_the_network_alone(tmp_path: Path) -> None:
    original = network()
    module = imported(export_files(original, tmp_path, describe("area"), [PlainFile()])[0].path)
    floats = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.allclose(module.network()(floats), original(floats), atol=1e-6)
    assert '"area"' in (tmp_path / "network.py").read_text()
    without = imported(export_files(original, tmp_path, describe(None), [PlainFile()])[0].path)
    assert not hasattr(without, "classifier")
    assert not hasattr(without, "Preprocessing")


def test_a_name_of_the_preprocessing_clashes_only_where_it_is_copied(build: Build, tmp_path: Path) -> None:
    own = build("named", "classifier = 3", "+ classifier")(16)
    texts = {"image_shape": (1, 4, 4), "class_names": ("a", "b", "c"), "mean": (0.5,), "std": (0.2,), "header": ""}
    export_files(own, tmp_path, Description(**texts), [PlainFile()])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'classifier'"):
        export_files(own, tmp_path, Description(**texts, resize="area"), [PlainFile()])  # type: ignore[arg-type]


def test_a_resizing_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"resize is 'nearest'; it must be one of 'bilinear', 'area'"):
        describe("nearest")
