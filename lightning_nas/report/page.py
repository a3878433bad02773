"""The report of a run: one HTML file without scripts or external resources, made from the run folder alone."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import read_json, write_bytes
from lightning_nas.report import panels, selection
from lightning_nas.report.curves import read_curves
from lightning_nas.report.front import Front
from lightning_nas.report.networks import headline, light, networks, scale, statements
from lightning_nas.report.run import compare, decisions, read_run
from lightning_nas.spaces.artifact import build_space, load_architecture

MAX_ROWS = 50
"""How many members of a front a page lists."""

FEW_ROWS = 12
"""How many members of a front the page of a pipeline lists."""

FILES = {
    "network.py": "the found network in one file that needs only torch; its weights are in network.pt",
    "network.pt2": "the same as a program of torch.export",
    "network.onnx": "the same for ONNX runtimes",
    "network.int8.onnx": "the same with 8-bit integers, for ONNX Runtime",
    "README.md": "model card: data, figures, how to load each file",
    "architecture.json": "the found architecture, for a training of your own",
    "proxy.safetensors": "the distilled images",
    "summary.json": "all figures of this page",
}
"""What the files of a run folder are for."""

FACTS = {"date": "date", "hardware": "hardware", "versions": "versions", "run folder": "run_dir"}
"""Keys of a summary by the names under which a page shows them, for whoever repeats a run."""

_REPAIR = "Run the search again: it writes the file at its end."


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder, from the files of that folder alone.

    A page says which optional files are missing, and shows what the others contain.

    Args:
        run_dir: The folder of a pipeline, with ``summary.json`` and ``architecture.json``; ``alphas.safetensors``,
            ``pictures.safetensors``, ``proxy.json``, ``fidelity.json`` and ``<stage>/**/metrics.csv`` are optional.
            Or the folder of a search by queries, with ``history.json``, ``architecture.json`` and no ``summary.json``;
            ``front.json`` and ``**/metrics.csv`` are optional.

    Returns:
        The path of the report.

    Raises:
        ArtifactError: A required file is missing or broken, or ``front.json`` is broken.
        ArchitectureError: An architecture does not belong to its space.

    Example:
        ```python
        write_report(Path("runs/first"))  # as does: lightning-nas report runs/first
        ```
    """
    folder = Path(run_dir)
    by_queries = (folder / "history.json").is_file() and not (folder / "summary.json").exists()
    name, content = ("queries.html", _queries(folder)) if by_queries else ("pipeline.html", _pipeline(folder))
    page = TEMPLATES.get_template(name).render(title=f"Architecture search {folder.resolve().name}", **content)
    return write_bytes(folder / "report.html", page.encode("utf-8", "replace"))


def _pipeline(folder: Path) -> dict[str, Any]:
    """What the page of a pipeline shows."""
    run = read_run(folder)
    comparison, found = compare(run.summary), networks(run.summary)
    stages = panels.training_stages(run.curves)
    texts = run.summary.texts
    facts = {name: texts[key] for name, key in FACTS.items()}
    return {
        "run": run,
        "summary": run.summary,
        "comparison": comparison,
        "headline": headline(run.summary, comparison),
        "statements": statements(run.summary),
        "light": light(run.summary.fidelity),
        "networks": found,
        "axis": scale(found),
        "cost_pictures": panels.cost_pictures(found),
        "tested": None if isinstance(run.tested, str) else run.tested,
        "untested": run.tested if isinstance(run.tested, str) else "",
        "front": run.candidates,
        "rows": run.candidates.rows() if run.candidates else [],
        "max_rows": FEW_ROWS,
        "front_pictures": panels.front_pictures(run.candidates) if run.candidates else [],
        "learning": panels.learning_pictures(run),
        "snippet": _snippet(folder / "README.md"),
        "files": [(name, text) for name, text in FILES.items() if (folder / name).exists()],
        "genotype": run.genotype,
        "cells_of_network": panels.cell_pictures(run.graphs),
        "decisions": decisions(run),
        "alphas": panels.alpha_pictures(run),
        "images": panels.image_pictures(run),
        "ranking": panels.ranking_picture(run),
        "stages": [stage for stage in stages if stage.name not in run.summary.compared_stages],
        "random_stages": [stage for stage in stages if stage.name in run.summary.compared_stages],
        "health": panels.health_stages(run.curves),
        "facts": facts,
        "unknown": [name for name, value in {**facts, "command": texts["command"]}.items() if not value],
    }


def _snippet(card: Path) -> str:
    """The code of a model card that loads the first of its files; empty if there is none."""
    text = card.read_text(errors="replace") if card.is_file() else ""
    found = re.search(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return found.group(1).rstrip() if found else ""


def _queries(folder: Path) -> dict[str, Any]:
    """What the page of a search by queries shows."""
    path = folder / "history.json"
    content = read_json(path, repair=_REPAIR)
    try:
        objective = str(content["objective"])
        value, queries = float(content["objectives"][objective]), int(content["queries"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is not what a search writes ({error!r:.200}). {_REPAIR}") from None
    architecture = load_architecture(folder / "architecture.json")
    space = build_space(architecture.space)
    front = Front.load(folder / "front.json") if (folder / "front.json").is_file() else None
    return {
        "objective": objective,
        "value": value,
        "queries": queries,
        "failed": len(failures) if isinstance(failures := content.get("failures"), list) else 0,
        "components": [content[key] for key in ("strategy", "evaluator") if content.get(key)],
        "genotype": space.text(architecture),
        "cells_of_network": panels.cell_pictures(space.graphs(architecture)),
        "front": front,
        "rows": front.rows() if front else [],
        "max_rows": MAX_ROWS,
        "front_pictures": panels.front_pictures(front) if front else [],
        "stages": panels.training_stages({"search": read_curves(folder)}),
        "random_stages": [],
    }


# -- how templates write values ---------------------------------------------------------------------------------------


def percent(share: float, digits: int = 2) -> str:
    """Write a fraction as a percentage."""
    return f"{100 * share:.{digits}f}%"


def duration(seconds: float) -> str:
    """Write a time in one or two units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def short(number: float) -> str:
    """Write a large number with three digits and a unit, such as ``9.21 M``, and a small one with four digits."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.4g}"


def width(share: float) -> str:
    """Write the width of a bar for a share from 0 to 1; a share that is NaN has none."""
    return f"{100 * min(max(share, 0.0), 1.0) if share == share else 0.0:.1f}%"


def on_axis(value: float, axis: tuple[float, float]) -> str:
    """Write the place of a value on an axis as a percentage of its length."""
    low, high = axis
    return f"{100 * min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 50.0:.1f}%"


def subscripts(name: str) -> Markup:
    """Write the name of a state, ``c_{k-1}``, with its subscript."""
    return Markup(re.sub(r"_\{([^{}]*)\}", r"<sub>\1</sub>", str(escape(name))))


TEMPLATES = Environment(
    loader=PackageLoader("lightning_nas.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""The templates of all pages, which escape everything that they are given but the pictures."""

TEMPLATES.filters |= {each.__name__: each for each in (percent, duration, short, width, on_axis, subscripts)}
TEMPLATES.filters["commas"] = "{:,.0f}".format
TEMPLATES.filters["selection_count"] = selection.count
TEMPLATES.filters["selection_interval"] = selection.interval
TEMPLATES.filters["selection_undecided"] = selection.undecided
TEMPLATES.filters["selection_images"] = selection.images
