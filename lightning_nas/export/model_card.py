"""The model card of an export, ``README.md``: what the network is, how accurate it is, and how its files are used."""

import html
import json
import math
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from lightning_nas.errors import ConfigError
from lightning_nas.export.formats import CHECKED_BATCHES, TOLERANCE, Description, Exported, Format
from lightning_nas.export.measured import LATENCY_BATCHES, Measured
from lightning_nas.files.artifacts import write_bytes
from lightning_nas.metrics.paired import wilson_interval

NOT_STATED = "not stated"
"""The licence of a network for which none was named."""


def check_figures(figures: Mapping[str, float]) -> None:
    """Check figures for a model card.

    Args:
        figures: Measured values by name, see ``ModelCard``.

    Raises:
        ConfigError: A figure is not finite, or an accuracy is not a fraction.
    """
    for name, value in figures.items():
        if not math.isfinite(value) or (name.endswith("accuracy") and not 0 <= value <= 1):
            raise ConfigError(
                f"The figure {name} is {value}. Give finite numbers and accuracies as fractions between 0 and 1, and "
                "leave out what was not measured."
            )


@dataclass(frozen=True)
class ModelCard:
    """The model card of an exported network: YAML front matter that model hubs read, then Markdown.

    Args:
        space: Class path of the search space.
        description: What the files say about the network; its header is the architecture as text.
        formats: Formats of the files.
        exported: The files, in the order of ``formats``.
        cost: ``parameters``, and ``macs`` per image.
        data: ``class`` (class path of the data module) and ``train_images``, as far as they are known.
        figures: Measured values by name. Those whose name ends in ``accuracy`` are fractions; ``test_accuracy`` also
            goes into the front matter. See ``check_figures``.
        compared: This network, first, and others that were trained and tested alike: ``label``, ``test_accuracy``
            (a mean over seeds, as a fraction), ``test_accuracies`` (one per seed), ``parameters`` and ``macs``.
        normalisation_known: Whether mean and standard deviation are those of the data, and not zeros and ones in their
            place.
        test_images: Number of test images, from which the interval of the test accuracy follows; None if unknown.
        comparisons: This network against others on the same test images: ``label``, ``better``, ``worse`` and ``ties``
            (numbers of images), ``p`` of the exact paired test, and ``verdict``.
        measured: What was measured of the files.
        licence: Licence of the network, preferably an SPDX identifier in lower case, which model hubs know.

    Example:
        ```python
        description = Description((3, 32, 32), ("cat", "dog"), (0.5,) * 3, (0.25,) * 3, header=space.text(architecture))
        formats = [PlainFile()]
        exported = export_files(network, "export", description, formats)
        cost = {"parameters": parameters(network), "macs": macs(network, (3, 32, 32))}
        card = ModelCard("DARTSSpace", description, formats, exported, cost, figures={"test_accuracy": 0.97})
        card.write("export")
        ```
    """

    space: str
    description: Description
    formats: Sequence[Format]
    exported: Sequence[Exported]
    cost: Mapping[str, int]
    data: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    compared: Sequence[Mapping[str, Any]] = ()
    normalisation_known: bool = True
    licence: str = NOT_STATED
    test_images: int | None = None
    comparisons: Sequence[Mapping[str, Any]] = ()
    measured: Measured = field(default_factory=Measured)

    def write(self, folder: str | Path) -> Path:
        """Write ``README.md`` into a folder, and return its path."""
        return write_bytes(Path(folder) / "README.md", self.text().encode())

    def text(self) -> str:
        """Return the whole card."""
        packages = ["lightning_nas", "torch", *(package for each in self.formats for package in each.packages)]
        versions = {
            "written": datetime.now().astimezone().date().isoformat(),
            "Python": platform.python_version(),
            **{package: version(package) for package in packages},
        }
        return _TEMPLATES.get_template("model_card.md").render(
            vars(self),
            front_matter=yaml.safe_dump(self._front_matter(), sort_keys=False, allow_unicode=True),
            classes=_json(self.description.class_names),
            header=_fenced(self.description.header.strip()),
            batches=CHECKED_BATCHES,
            latency_batches=LATENCY_BATCHES,
            tolerance=TOLERANCE,
            interval=self._interval(),
            exact=[each.tolerance == TOLERANCE for each in self.formats],
            raw=self.description.resize is not None,
            machine=f"{platform.machine()}, {platform.system()}",
            versions=versions,
            unknown="not known: the checkpoint does not say",
        )

    def _interval(self) -> tuple[float, float] | None:
        """Wilson's interval of the test accuracy; None where it or the number of test images is unknown."""
        accuracy = self.figures.get("test_accuracy")
        return wilson_interval(accuracy, self.test_images) if accuracy is not None and self.test_images else None

    def _front_matter(self) -> dict[str, Any]:
        onnx = ["onnx"] if any(each.name == "onnx" for each in self.formats) else []
        front: dict[str, Any] = {
            # the name that model hubs use where no licence is given
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
            path = str(self.data["class"])
            task = {"type": "image-classification"}
            dataset = {"name": self.data.get("title") or path.rpartition(".")[2], "type": path}
            metrics = [{"type": "accuracy", "value": round(float(accuracy), 5)}]  # an accuracy may be a rounded float32
            front["model-index"] = [
                {"name": "network", "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}
            ]
        return front


_SPECIAL = re.compile(r"([\\`*_{}\[\]|~])")


def _cell(text: str) -> str:
    """Escape what Markdown and HTML would not show as it is, in a cell of a table."""
    return html.escape(_SPECIAL.sub(r"\\\1", " ".join(str(text).split())), quote=False)


def _code(text: str) -> str:
    """A dotted name as code; anything else escaped."""
    return f"`{text}`" if re.fullmatch(r"[\w.]+", text) else _cell(text)


def _json(names: Sequence[str]) -> str:
    """Names as JSON without characters that mean something to HTML or Markdown."""
    text = json.dumps(names, ensure_ascii=False)
    for character in "<>&`":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _fenced(text: str) -> str:
    """A text as a block of code, which nothing in it ends."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _figure(value: float, name: str) -> str:
    return _percent(value) if name.endswith("accuracy") else f"{value:.6g}"


def _percent(rate: float, images: int | None = None) -> str:
    """A rate in percent, with one decimal where the rate of so few images has no more."""
    return f"{100 * rate:.{1 if images and images < 1000 else 2}f}%"


def _mean(accuracies: Sequence[float], images: int | None) -> str:
    """Mean and, where there are several, standard deviation of accuracies."""
    mean = _percent(statistics.mean(accuracies), images)
    return f"{mean[:-1]} ± {_percent(statistics.stdev(accuracies), images)}" if len(accuracies) > 1 else mean


_TEMPLATES = Environment(
    loader=PackageLoader("lightning_nas.export"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {"cell": _cell, "code": _code, "figure": _figure, "mean": _mean, "percent": _percent}
