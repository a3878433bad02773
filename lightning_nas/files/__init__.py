"""Reading and writing artifacts and checkpoints, whatever their origin."""

from lightning_nas.files.artifacts import read_json, read_tensors, write_bytes, write_json, write_tensors
from lightning_nas.files.checkpoints import read_checkpoint
from lightning_nas.files.classes import class_path, find_class, import_modules, import_plugins
from lightning_nas.files.torch_files import load_saved

__all__ = [
    "class_path",
    "find_class",
    "import_modules",
    "import_plugins",
    "load_saved",
    "read_checkpoint",
    "read_json",
    "read_tensors",
    "write_bytes",
    "write_json",
    "write_tensors",
]
