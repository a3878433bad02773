"""A found network as files for programs without this library: above all ``network.py``, which needs only torch.

``network.py`` contains the source of the network's class itself, copied from the modules that define it. So the
exported code is the code that was trained, and a comparison of outputs proves it.
"""

import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError, ExportError
from lightning_nas.export.formats import (
    Description,
    Exportable,
    Exported,
    Format,
    TorchProgram,
    write_checked,
)
from lightning_nas.export.onnx_models import ONNXInt8Model, ONNXModel
from lightning_nas.export.preprocessing import Preprocessing
from lightning_nas.export.source import Import, collect, is_external

COLUMNS = 120
"""Longest line of ``network.py``."""

_OWN_NAMES = ("network", "IMAGE_SHAPE", "CLASSES", "MEAN", "STD")
"""Names that ``network.py`` defines besides the copied source."""

_OWN_IMPORTS = (Import("pathlib", "Path", ""), Import("torch", "", ""), Import("torch", "nn", ""))


class PlainFile(Format):
    """``network.py``: the source of the network's class in one file that needs only torch, with ``network.pt``.

    The module of the class may import torch, the standard library, and other such modules of its own package or of this
    library. The same holds for the classes of objects among the constructor arguments, whose ``repr`` must be source
    code.

    Example:
        ```bash
        lightning-nas export --ckpt_path runs/first/train/checkpoints/last.ckpt --formats py
        python export/network.py  # runs the network on an image of zeros, and prints the shape of its output
        ```
    """

    file_name = "network.py"
    needs = "only torch, and network.pt in the same folder"
    usage = """import torch

from network import CLASSES, IMAGE_SHAPE, MEAN, STD, network

images = torch.rand(2, *IMAGE_SHAPE)  # replace by your images, with values in [0, 1]
scaled = (images - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
with torch.no_grad():
    logits = network()(scaled)
names = [CLASSES[i] for i in logits.argmax(dim=1).tolist()]
print(names)"""
    raw_usage = """import torch

from network import CLASSES, IMAGE_SHAPE, classifier

shape = (2, IMAGE_SHAPE[0], 96, 128)
images = torch.randint(256, shape, dtype=torch.uint8)  # replace by your images, of any height and width
with torch.no_grad():
    logits = classifier()(images)
names = [CLASSES[i] for i in logits.argmax(dim=1).tolist()]
print(names)"""

    def write(self, source: Exportable, folder: Path) -> list[Path]:
        """Write ``network.pt`` and ``network.py``; see ``Format.write``."""
        weights, path = folder / "network.pt", folder / self.file_name
        path.write_text(_render(source), encoding="utf-8")
        torch.save({name: value.clone() for name, value in source.network.state_dict().items()}, weights)
        return [weights, path]

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Import the file as a module of its own, for its network or classifier; see ``Format.load``."""
        spec = importlib.util.spec_from_file_location("_exported_network", path)
        if spec is None or spec.loader is None:
            raise ExportError(f"{path} cannot be imported.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        @cache
        def build(raw: bool) -> nn.Module:
            made: nn.Module = module.classifier() if raw else module.network()
            return made

        return lambda images: build(images.dtype == torch.uint8)(images)


FORMATS: tuple[Format, ...] = (PlainFile(), TorchProgram(), ONNXModel(), ONNXInt8Model())
"""All formats that ``lightning-nas export`` writes."""


def export_files(
    network: nn.Module,
    folder: str | Path,
    description: Description,
    formats: Sequence[Format],
    calibration: Iterable[Tensor] = (),
) -> list[Exported]:
    """Write a network in some formats, and check that every file does what the network does.

    The weights of an auxiliary head are left out. The network, its device and the state of the random number generators
    do not change.

    Args:
        network: The trained network. Its attribute ``arguments`` must be a dictionary of its constructor arguments.
        folder: The folder for the files.
        description: What the files say about the network.
        formats: The formats to write.
        calibration: Training images as the files take them, ``(channels, height, width)`` each, for formats that
            quantize the network.

    Returns:
        The written files, in the order of ``formats``.

    Raises:
        ConfigError: The network cannot be built again, or the description does not fit it.
        ExportError: A file cannot be written or run, or its outputs differ from the network's. No file is written then.
        MissingDependencyError: A format needs packages that are not installed.

    Example:
        ```python
        space = DARTSSpace()
        network = space.network(space.sample(torch.Generator()), num_classes=2, image_shape=(3, 32, 32), channels=8)
        description = Description((3, 32, 32), ("cat", "dog"), (0.5,) * 3, (0.25,) * 3, "A network of random weights.")
        export_files(network, "export", description, [PlainFile(), ONNXModel()])
        ```
    """
    return write_checked(network, Exportable(_rebuilt(network), description, calibration), folder, formats)


def export_network(
    network: nn.Module,
    folder: str | Path,
    *,
    image_shape: Sequence[int],
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    header: str,
) -> Exported:
    """Write ``network.py`` and ``network.pt``, as ``export_files`` does with ``PlainFile`` alone.

    Args:
        network: The trained network; see ``export_files`` and ``PlainFile`` for what its class must be like.
        folder: The folder for the files.
        image_shape: ``(channels, height, width)`` of an image.
        class_names: One name per output.
        mean: Mean of every channel of images in [0, 1].
        std: Standard deviation of every channel of images in [0, 1].
        header: Text for the docstring of the file, such as how the network was found.

    Returns:
        The path of ``network.py``, and how much its outputs differ from the network's.

    Raises:
        ConfigError: The network cannot be built again or copied, or another argument does not fit it.
        ExportError: The file does not do what the network does.
    """
    description = Description(tuple(image_shape), tuple(class_names), tuple(mean), tuple(std), header)
    return export_files(network, folder, description, [PlainFile()])[0]


def _rebuilt(network: nn.Module) -> nn.Module:
    """Build the same network again: without auxiliary head, in float32, on the CPU, in eval mode."""
    arguments = getattr(network, "arguments", None)
    if not isinstance(arguments, dict) or is_external(type(network).__module__):
        raise ConfigError(
            f"{type(network).__module__}.{type(network).__name__} cannot be exported: its class must not be one of "
            "torch, and must have an attribute 'arguments', a dictionary of its constructor arguments."
        )
    arguments = {**arguments, **({"auxiliary": False} if "auxiliary" in arguments else {})}
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        rebuilt: nn.Module = type(network)(**arguments)
    state = network.state_dict()
    missing = [name for name in rebuilt.state_dict() if name not in state]
    if missing:
        raise ExportError(f"The network has no weights {missing[:3]}: it was not built with its 'arguments'.")
    try:
        rebuilt.load_state_dict({name: state[name] for name in rebuilt.state_dict()})
    except RuntimeError as error:
        raise ExportError(f"The network was not built with its 'arguments': {error}.") from None
    return rebuilt.float().eval().requires_grad_(False)


# -- the text of network.py -------------------------------------------------------------------------------------------


def _render(source: Exportable) -> str:
    """Write the whole of ``network.py``."""
    network, description = type(source.network), source.description
    constants = {
        "IMAGE_SHAPE": tuple(int(n) for n in description.image_shape),
        "CLASSES": tuple(str(name) for name in description.class_names),
        "MEAN": tuple(float(m) for m in description.mean),
        "STD": tuple(float(s) for s in description.std),
    }
    arguments: dict[str, Any] = source.network.arguments  # type: ignore[assignment]  # a dictionary
    roots = [*sorted(_classes(arguments)), (network.__module__, network.__name__)]
    reserved = list(_OWN_NAMES)
    if description.resize is not None:
        roots.append((Preprocessing.__module__, Preprocessing.__name__))
        reserved.append("classifier")
    texts, imports = collect(roots, reserved, _OWN_IMPORTS)
    values = "\n".join(f"{name} = {_literal(value, len(name) + 3)}" for name, value in constants.items())
    lines = [f"        {name}={_literal(value, 10 + len(name), 8)}," for name, value in arguments.items()]
    builders = [_BUILDER.format(name=network.__name__, arguments="\n".join(lines))]
    if description.resize is not None:
        builders.append(_CLASSIFIER.format(resize=description.resize))
    howto = _HOWTO if description.resize is None else _RAW_HOWTO
    top = "\n\n".join([_docstring(howto, description.header), _import_block({*imports, *_OWN_IMPORTS}), values])
    return "\n\n\n".join([top, *texts, *builders, _MAIN]) + "\n"


def _classes(value: Any) -> set[tuple[str, str]]:
    """Find the classes of the objects in an argument by module and name, without those of Python itself."""
    if isinstance(value, (list, tuple, dict)):
        return {place for each in (value.values() if isinstance(value, dict) else value) for place in _classes(each)}
    kind = type(value)
    return set() if kind.__module__ == "builtins" else {(kind.__module__, kind.__qualname__)}


_HOWTO = """A network found by lightning_nas, in one file that needs only torch.

Its weights are in network.pt in the same folder. For images (batch, channels, height, width) in [0, 1]:

    from network import CLASSES, MEAN, STD, network
    scaled = (images - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    names = [CLASSES[i] for i in network()(scaled).argmax(dim=1).tolist()]
"""

_RAW_HOWTO = """A network found by lightning_nas, in one file that needs only torch.

Its weights are in network.pt in the same folder. For uint8 images (batch, channels, any height, any width):

    from network import CLASSES, classifier
    names = [CLASSES[i] for i in classifier()(images).argmax(dim=1).tolist()]

network() is the network without the preprocessing: it takes (images - MEAN) / STD of images in [0, 1].
"""

_BUILDER = '''def network(pretrained: bool = True) -> nn.Module:
    """Build the network in eval mode; ``pretrained`` loads the weights from network.pt in the same folder."""
    model = {name}(
{arguments}
    )
    if pretrained:
        weights = torch.load(Path(__file__).with_name("network.pt"), map_location="cpu", weights_only=True)
        model.load_state_dict(weights)
    return model.eval()'''

_CLASSIFIER = '''def classifier(pretrained: bool = True) -> nn.Module:
    """Build the network behind its preprocessing: from uint8 images of any height and width to logits."""
    return nn.Sequential(Preprocessing(IMAGE_SHAPE, MEAN, STD, "{resize}"), network(pretrained)).eval()'''

_MAIN = """if __name__ == "__main__":
    with torch.no_grad():
        print(tuple(network()(torch.zeros(1, *IMAGE_SHAPE)).shape))"""


def _docstring(howto: str, header: str) -> str:
    """Write the docstring of the file; whatever the header contains cannot end it."""
    lines = [part for line in header.strip().splitlines() for part in textwrap.wrap(line, 100) or [""]]
    text = "\n".join([howto, *lines]) if lines else howto.rstrip()
    return '"""' + text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"').rstrip() + '\n"""'


def _import_block(imports: set[Import]) -> str:
    """Merge imports: first the standard library, then torch, with whole modules before names."""
    groups: list[str] = []
    for of_torch in (False, True):
        mine = sorted(e for e in imports if (e.module.partition(".")[0] == "torch") == of_torch)
        lines = [f"import {e.module}{e.suffix}" for e in mine if not e.name]
        names: dict[str, list[str]] = {}
        # the order that linters expect: constants, classes, functions
        for entry in sorted(mine, key=lambda e: (not e.name.isupper(), not e.name[:1].isupper())):
            if entry.name:
                names.setdefault(entry.module, []).append(entry.name + entry.suffix)
        for module, each in sorted(names.items()):
            line = f"from {module} import {', '.join(each)}"
            fits = len(line) <= COLUMNS
            lines.append(line if fits else f"from {module} import (\n    " + ",\n    ".join(each) + ",\n)")
        groups.append("\n".join(lines))
    return "\n\n".join(groups)


def _literal(value: Any, before: int, indent: int = 0) -> str:
    """Write the source of a JSON-like value, over several lines if it does not fit after ``before`` columns."""
    if isinstance(value, str):
        quoted = repr(value)
        return f'"{quoted[1:-1]}"' if quoted[0] == "'" and '"' not in quoted else quoted
    if not isinstance(value, (list, tuple, dict)):
        return repr(value)
    opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    keys = [""] * len(value)
    if isinstance(value, dict):
        opening, closing = "{", "}"
        keys = [f"{_literal(key, -sys.maxsize)}: " for key in value]
        value = list(value.values())
    pairs = list(zip(keys, value, strict=True))
    short = ", ".join(key + _literal(item, -sys.maxsize) for key, item in pairs)
    comma = "," if opening == "(" and len(pairs) == 1 else ""
    if before + len(short) + 4 <= COLUMNS or not pairs:
        return f"{opening}{short}{comma}{closing}"
    inner = indent + 4
    lines = [f"{' ' * inner}{key}{_literal(item, inner + len(key), inner)}," for key, item in pairs]
    return "\n".join([opening, *lines, " " * indent + closing])
