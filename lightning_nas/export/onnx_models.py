"""Networks as ONNX: with 32-bit floats, and with 8-bit integers."""

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_nas.errors import ConfigError
from lightning_nas.export.formats import Exportable, Format

_RAW_USAGE = """import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file_name}", providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["description"])
shape = (2, about["image_shape"][0], 96, 128)
images = np.random.randint(256, size=shape, dtype=np.uint8)  # replace by your images, of any height and width
logits = session.run(["logits"], {{"images": images}})[0]
names = [about["classes"][i] for i in logits.argmax(axis=1)]
print(names)"""


class ONNXModel(Format):
    """``network.onnx``: for ONNX Runtime and other programs that read ONNX.

    Args:
        max_bytes: Largest size of the weights in bytes for which they are stored in the file itself, which must stay
            below 2 GB. Larger weights are stored in ``network.onnx.data`` in the same folder.

    Example:
        ```bash
        pip install "lightning_nas[onnx]"
        lightning-nas export --ckpt_path runs/first/train/checkpoints/last.ckpt --formats onnx
        ```
    """

    file_name = "network.onnx"
    needs = "ONNX Runtime (`pip install onnxruntime`), or another program that reads ONNX"
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"
    usage = """import json

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("network.onnx", providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["description"])
images = np.random.rand(2, *about["image_shape"]).astype(np.float32)  # replace by your images, with values in [0, 1]
mean, std = (np.array(about[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
logits = session.run(["logits"], {"images": (images - mean) / std})[0]
names = [about["classes"][i] for i in logits.argmax(axis=1)]
print(names)"""
    raw_usage = _RAW_USAGE.format(file_name=file_name)

    def __init__(self, max_bytes: int = 1_900_000_000) -> None:
        self.max_bytes = max_bytes

    def write(self, source: Exportable, folder: Path) -> list[Path]:
        """Write the traced program as ONNX; see ``Format.write``."""
        path = folder / self.file_name
        # the program already has its dynamic dimension; here it only gets a name
        written: Any = torch.onnx.export(
            source.program,
            (),
            dynamo=True,
            dynamic_shapes=(source.free_sizes,),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        for node in written.model.graph:
            # metadata of the exporter, which is larger than the rest of a small network
            node.metadata_props.clear()
        written.model.metadata_props["description"] = source.description.json()
        weights = sum(value.numel() * value.element_size() for value in source.network.state_dict().values())
        written.save(path, external_data=weights > self.max_bytes)
        return [*folder.glob(f"{self.file_name}.*"), path]

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Load the file with ONNX Runtime; see ``Format.load``."""
        return _load(path)


class ONNXInt8Model(Format):
    """``network.int8.onnx``: the network of ``network.onnx`` with 8-bit weights and states, for ONNX Runtime.

    Convolutions and linear layers compute with 8-bit integers. Weights are scaled per channel; the scales of states are
    those of training images ("static" quantization). The outputs differ from the network's, so that the accuracy must
    be measured on images: an export does so.

    Example:
        ```bash
        pip install "lightning_nas[onnx]"
        lightning-nas export --ckpt_path last.ckpt --config train/digits --formats onnx_int8
        ```
    """

    file_name = "network.int8.onnx"
    needs = "ONNX Runtime (`pip install onnxruntime`)"
    packages = ONNXModel.packages
    extra = ONNXModel.extra
    usage = ONNXModel.usage.replace(ONNXModel.file_name, file_name)
    raw_usage = _RAW_USAGE.format(file_name=file_name)
    tolerance = sys.float_info.max  # only outputs that are not finite are wrong
    needs_images = True

    @property
    def name(self) -> str:
        """``onnx_int8``."""
        return "onnx_int8"

    def write(self, source: Exportable, folder: Path) -> list[Path]:
        """Write the traced program as ONNX, and quantize it; see ``Format.write``.

        Raises:
            ConfigError: There are no images for the calibration.
        """
        if next(iter(source.calibration), None) is None:
            raise ConfigError(
                f"{self.file_name} is calibrated with training images, and none were received. Give the data of the "
                f"training, --config FILE, or leave '{self.name}' out of the formats."
            )
        # not import statements: mypy reports other errors about them where the packages are not installed
        onnx: Any = importlib.import_module("onnx")
        quantization: Any = importlib.import_module("onnxruntime.quantization")
        shapes: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
        with tempfile.TemporaryDirectory() as temporary:
            whole = ONNXModel().write(source, Path(temporary))[-1]
            description = {each.key: each.value for each in onnx.load(whole, load_external_data=False).metadata_props}
            fused = whole.with_name("fused.onnx")
            shapes.quant_pre_process(str(whole), str(fused), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(fused),
                str(whole),
                _Calibration(source.calibration),
                op_types_to_quantize=["Conv", "Gemm"],  # no other layer has weights; resizing stays exact
                per_channel=True,
                # signed weights overflow in the 16-bit sums of processors without instructions for 8-bit networks
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QUInt8,
            )
            model = onnx.load(whole)
            onnx.helper.set_model_props(model, description)
            path = folder / self.file_name
            onnx.save(model, path)
        return [path]

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Load the file with ONNX Runtime; see ``Format.load``."""
        return _load(path)


class _Calibration:
    """Images for the calibration, one by one, as ONNX Runtime asks for them."""

    def __init__(self, images: Iterable[Tensor]) -> None:
        self.left = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next run; None after the last one."""
        image = next(self.left, None)
        return None if image is None else {"images": image[None].numpy()}


def _load(path: Path) -> Callable[[Tensor], Tensor]:
    # not an import statement: mypy reports other errors about it where the package is not installed
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])
