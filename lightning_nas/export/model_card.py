"""The README.md of an export: what the network is, how good it is, how each file is used, and what is not known."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lightning_nas.errors import ConfigError
from lightning_nas.export.formats import CHECKED_BATCHES, TOLERANCE, Description, Exported, Format
from lightning_nas.files.artifacts import write_bytes

NOT_STATED = "not stated"
_UNKNOWN = "not known: the checkpoint does not say"
_NOT_MEASURED = "not measured here"


def check_figures(figures: Mapping[str, float]) -> None:
    """Refuse figures that cannot be.

    Args:
        figures: See ``ModelCard``.

    Raises:
        ConfigError: A figure is not finite, or an accuracy no fraction.
    """
    for name, value in figures.items():
        if not math.isfinite(value) or (name.endswith("accuracy") and not 0 <= value <= 1):
            raise ConfigError(
                f"The figure {name} is {value}. Give finite numbers, accuracies as fractions between 0 and 1, and "
                "leave out what was not measured."
            )


@dataclass(frozen=True)
class ModelCard:
    """What is known of an exported network.

    Args:
        space: Class path of its search space.
        description: What its files tell of it; the header is the architecture as text.
        formats: Of the files.
        exported: The files, in the order of ``formats``.
        cost: ``parameters`` and ``macs`` (of one image).
        data: ``class`` (class path of the data module) and ``train_images``, as far as known.
        figures: What was measured, by name, see ``check_figures``; accuracies (names that end on ``accuracy``) as
            fractions. The one named ``test_accuracy`` also goes into the front matter.
        normalisation_known: Whether mean and std are those of the data, and not zeros and ones in their place.
        licence: Under which the network may be used, best an identifier of SPDX in lower case, which model hubs know.
    """

    space: str
    description: Description
    formats: Sequence[Format]
    exported: Sequence[Exported]
    cost: Mapping[str, int]
    data: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    normalisation_known: bool = True
    licence: str = NOT_STATED

    def write(self, folder: str | Path) -> Path:
        """Write ``README.md``."""
        return write_bytes(Path(folder) / "README.md", self.text().encode())

    def text(self) -> str:
        """The whole card: YAML front matter, then Markdown."""
        front = yaml.safe_dump(self._front_matter(), sort_keys=False, allow_unicode=True)
        sections = [
            "# An image classifier made with lightning_nas",
            f"A convolutional network for {len(self.description.class_names)} classes, trained on the data below. Its "
            f"architecture is one of the search space `{self.space.rpartition('.')[2]}`.",
            f"## Architecture\n\n```text\n{self.description.header.strip()}\n```",
            "## Data\n\n" + _table(self._data_rows()) + f"\n\nThe classes, in the order of the outputs:\n\n"
            f"```json\n{json.dumps(self.description.class_names, ensure_ascii=False)}\n```",
            "## Figures\n\n" + _table(self._figure_rows()),
            "## How to use it\n\n" + "\n\n".join(self._usages()),
            "## Parity\n\nThe outputs of every file were compared with those of the trained network, on the CPU with "
            f"random inputs in batches of {', '.join(map(str, CHECKED_BATCHES))} images (allowed are {TOLERANCE:g}, "
            "relative to outputs above 1):\n\n"
            + _table([(e.path.name, f"largest difference {e.difference:.1e}") for e in self.exported]),
            "## Limitations\n\nIt expects images of the shape above, normalised as above, in float32; it resizes "
            "nothing and checks nothing.\nIt knows no class but those above: the largest output is always one of them, "
            "also for other images.",
            "## Versions and licence\n\n" + _table(self._origin_rows()),
        ]
        return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"

    def _front_matter(self) -> dict[str, Any]:
        onnx = ["onnx"] if any(each.name == "onnx" for each in self.formats) else []
        front: dict[str, Any] = {
            # what model hubs call a licence that nobody named
            "license": "unknown" if self.licence == NOT_STATED else self.licence,
            "library_name": "pytorch",
            "pipeline_tag": "image-classification",
            "tags": ["image-classification", "neural-architecture-search", "lightning_nas", *onnx],
        }
        accuracy = self.figures.get("test_accuracy")
        if accuracy is None:
            return front
        front["metrics"] = ["accuracy"]
        if "class" in self.data:
            task = {"type": "image-classification"}
            dataset = {"name": self._data_class(), "type": str(self.data["class"])}
            metrics = [{"type": "accuracy", "value": float(accuracy)}]
            front["model-index"] = [
                {"name": "network", "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}
            ]
        return front

    def _data_class(self) -> str:
        return str(self.data["class"]).rpartition(".")[2]

    def _data_rows(self) -> list[tuple[str, str]]:
        channels, height, width = self.description.image_shape
        images = self.data.get("train_images")
        normalisation = "`(image - mean) / std` of images in [0, 1], a value a channel"
        if not self.normalisation_known:
            normalisation = f"{_UNKNOWN}; mean 0 and std 1 change nothing"
        return [
            ("data module", f"`{self.data['class']}`" if "class" in self.data else _UNKNOWN),
            ("training images", _UNKNOWN if images is None else f"{images:,}"),
            ("classes", f"{len(self.description.class_names)}"),
            ("image", f"{channels} channel{'s' * (channels > 1)}, {height} x {width} pixels"),
            ("normalisation", normalisation),
            ("mean", ", ".join(f"{value:.6g}" for value in self.description.mean)),
            ("std", ", ".join(f"{value:.6g}" for value in self.description.std)),
        ]

    def _figure_rows(self) -> list[tuple[str, str]]:
        accuracy = self.figures.get("test_accuracy")
        others = [(n.replace("_", " "), _figure(n, v)) for n, v in self.figures.items() if n != "test_accuracy"]
        return [
            ("parameters", f"{self.cost['parameters']:,}"),
            ("multiply-accumulates of one image", f"{self.cost['macs']:,}"),
            ("test accuracy", _NOT_MEASURED if accuracy is None else _figure("test_accuracy", accuracy)),
            *others,
        ]

    def _usages(self) -> list[str]:
        return [
            f"### {each.file_name}\n\nIt needs {each.needs}.\n\n```python\n{each.usage}\n```" for each in self.formats
        ]

    def _origin_rows(self) -> list[tuple[str, str]]:
        packages = ["lightning_nas", "torch", *(package for each in self.formats for package in each.packages)]
        return [
            ("written", datetime.now().astimezone().date().isoformat()),
            ("Python", platform.python_version()),
            *((package, version(package)) for package in packages),
            ("licence", self.licence),
        ]


def _figure(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name.endswith("accuracy") else f"{value:.6g}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """A table without a head of its own; what would end a cell or a row is escaped."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])
