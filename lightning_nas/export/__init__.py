"""Trained networks as files that do not need this library."""

from lightning_nas.export.formats import Description, Exportable, Exported, Format, TorchProgram
from lightning_nas.export.model_card import ModelCard
from lightning_nas.export.network import PlainFile, export_files, export_network
from lightning_nas.export.onnx_models import ONNXInt8Model, ONNXModel
from lightning_nas.export.preprocessing import Preprocessing

__all__ = [
    "Description",
    "Exportable",
    "Exported",
    "Format",
    "ModelCard",
    "ONNXInt8Model",
    "ONNXModel",
    "PlainFile",
    "Preprocessing",
    "TorchProgram",
    "export_files",
    "export_network",
]
