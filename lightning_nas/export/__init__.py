"""Trained networks as files that do not need this library."""

from lightning_nas.export.formats import Description, Exportable, Exported, Format, ONNXModel, TorchProgram
from lightning_nas.export.model_card import ModelCard
from lightning_nas.export.network import PlainFile, export_files, export_network

__all__ = [
    "Description",
    "Exportable",
    "Exported",
    "Format",
    "ModelCard",
    "ONNXModel",
    "PlainFile",
    "TorchProgram",
    "export_files",
    "export_network",
]
