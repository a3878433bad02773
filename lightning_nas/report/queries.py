"""The report of a search by queries: what it found, its front and its curves, read from its folder and checked."""

from pathlib import Path
from typing import Any

from lightning_nas.errors import ArtifactError
from lightning_nas.files.artifacts import read_json
from lightning_nas.report import sections
from lightning_nas.report.curves import read_curves
from lightning_nas.report.draw import svg
from lightning_nas.report.front import Front
from lightning_nas.report.run import Run, Summary
from lightning_nas.report.sections import _figure, _large, _note, _section, _table, _text
from lightning_nas.spaces.artifact import build_space, load_architecture

MOST_ROWS = 50
"""Members of a front that the report lists."""

_REPAIR = "Run the search again: it writes the file at its end."


def parts(folder: Path) -> list[str]:
    """The sections as HTML.

    Args:
        folder: With ``history.json`` and ``architecture.json``; ``front.json`` and ``**/metrics.csv`` are optional.

    Raises:
        ArtifactError: A file that must be there is missing or broken, or ``front.json`` is broken.
        ArchitectureError: A file holds no point of its space.
    """
    path = folder / "history.json"
    content = read_json(path, repair=_REPAIR)
    architecture = load_architecture(folder / "architecture.json")
    space = build_space(architecture.space)
    curves = {"search": read_curves(folder)}
    run = Run(folder, Summary(path, content), space.text(architecture), space.graphs(architecture), curves=curves)
    shown = [_head(path, content), sections.cells(run)]
    if (folder / "front.json").is_file():
        shown.append(front_section(Front.load(folder / "front.json")))
    return [*shown, sections.curves(run)]


def _head(path: Path, content: dict[str, Any]) -> str:
    """The headline: what was found by how many queries."""
    try:
        objective = content["objective"]
        value, queries = float(content["objectives"][objective]), int(content["queries"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is not what a search writes ({error!r:.200}). {_REPAIR}") from None
    found = f"Searched: {_text(objective)} {value:.4g} by {queries:,} queries"
    who = " · ".join(_text(content[key]) for key in ("strategy", "evaluator") if content.get(key))
    return f"<header>\n<h1>{found}</h1>\n<p>{who}</p>\n</header>"


def front_section(front: Front) -> str:
    """The front as pictures and as a table."""
    costs = ", ".join(front.costs)
    explanation = (
        f"Of {len(front.points):,} evaluated architectures, {len(front.members):,} are on the Pareto front: no other "
        f"one is as good in {front.objective} and {costs}, and better in one of them. The front is of what was "
        "evaluated; the space may hold better ones. A ring marks the best by the objective alone, which "
        "architecture.json holds."
    )
    made = [
        _figure(
            svg(figure, f"{front.objective} over {name} of all evaluated architectures, with their front"), most=640
        )
        for name, figure in front.pictures().items()
    ]
    rows = front.rows()
    heads = [_text(front.objective), *map(_text, front.costs), "architecture"]
    body = [
        ("", [_value(row["objectives"][front.objective]), *(_value(row["cost"][c]) for c in front.costs)])
        for row in rows[:MOST_ROWS]
    ]
    lines = [(kind, [*cells, _text(row["architecture"])]) for (kind, cells), row in zip(body, rows, strict=False)]
    more = [_note(f"{len(rows) - MOST_ROWS} more are in front.json.")] if len(rows) > MOST_ROWS else []
    numbers = range(1 + len(front.costs))
    pictures = f'<div class="pair">{"".join(made)}</div>'
    table = _table(heads, lines, numbers)
    return _section("Worth and costs", f"<p>{_text(explanation)}</p>", pictures, table, *more)


def _value(number: float) -> str:
    return _large(number) if number >= 1000 else f"{number:.4g}"
