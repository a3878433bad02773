"""Networks with 8-bit integers, against the same with floats."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_nas.data import DigitsDataModule
from lightning_nas.errors import ConfigError
from lightning_nas.export.formats import Description
from lightning_nas.export.network import export_files
from lightning_nas.export.onnx_models import ONNXInt8Model
from lightning_nas.spaces.nasbench201.space import NASBench201Space

pytest.importorskip("onnxruntime", reason='quantized networks: pip install "lightning_nas[onnx]"')

CELL = "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|"


def network() -> nn.Module:
    torch.manual_seed(1)
    space = NASBench201Space()
    return space.network(space.parse(CELL), num_classes=10, image_shape=(1, 8, 8), channels=8, cells=1)


def describe(data: DigitsDataModule, resize: str | None) -> Description:
    return Description((1, 8, 8), tuple(data.class_names), tuple(data.mean), tuple(data.std), "", resize)


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["bilinear", None])
def test_a_quantized_network_says_nearly_the_same(resize: str | None, tmp_path: Path) -> None:
    onnx = importlib.import_module("onnx")
    data, original = DigitsDataModule(), network()
    examples = data.examples(64)
    taken = torch.stack(list(examples.originals)) if resize else examples.prepared
    with torch.no_grad():
        for _ in range(50):  # so that normalized states have the scale that they have in trained networks
            original(examples.prepared)
        expected = original.eval()(examples.prepared)
    description = describe(data, resize)
    (exported,) = export_files(original, tmp_path, description, [ONNXInt8Model()], list(taken))
    assert [path.name for path in tmp_path.iterdir()] == ["network.int8.onnx"]
    received = ONNXInt8Model().load(exported.path)(taken)
    # overflows would be much larger than the steps of 8 bits
    assert float((received - expected).abs().mean() / expected.std(0).mean()) < 0.1
    assert float((received - expected).abs().max()) > 0
    model = onnx.load(exported.path)
    kinds = {onnx.TensorProto.DataType.Name(each.data_type) for each in model.graph.initializer if len(each.dims) == 4}
    assert kinds == {"UINT8"}  # all weights of convolutions
    (about,) = [each.value for each in model.metadata_props if each.key == "description"]
    assert json.loads(about) == json.loads(description.json())


def test_without_images_there_is_no_quantized_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"network\.int8\.onnx is calibrated with training images.*'onnx_int8'"):
        export_files(network(), tmp_path / "out", describe(DigitsDataModule(), "bilinear"), [ONNXInt8Model()])
    assert not (tmp_path / "out").exists()
