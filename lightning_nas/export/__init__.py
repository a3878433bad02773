"""Trained networks as files that need nothing of this library."""

from lightning_nas.export.formats import Description, ONNXModel, TorchProgram
from lightning_nas.export.model_card import ModelCard
from lightning_nas.export.network import PlainFile, export_files, export_network

__all__ = [
    "Description",
    "ModelCard",
    "ONNXModel",
    "PlainFile",
    "TorchProgram",
    "export_files",
    "export_network",
]
