"""The report of a run: one HTML file without scripts or anything from elsewhere, made from the run folder alone."""

import html
from pathlib import Path

from lightning_nas.files.artifacts import write_bytes
from lightning_nas.report import queries, sections
from lightning_nas.report.health import health
from lightning_nas.report.run import read_run
from lightning_nas.report.style import CSS


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run folder, from files of that folder only.

    Optional parts that are missing are left out, and the report says so.

    Args:
        run_dir: The folder of a pipeline, with ``summary.json`` and ``architecture.json``; ``alphas.safetensors``,
            ``pictures.safetensors``, ``proxy.json``, ``fidelity.json`` and ``<stage>/**/metrics.csv`` are optional. Or
            that of a search by queries, with ``history.json`` and no ``summary.json``; see ``queries.parts``.

    Returns:
        The report's path.

    Raises:
        ArtifactError: A file that must be there is missing or broken.
        ArchitectureError: ``architecture.json`` holds no point of its space.
    """
    folder = Path(run_dir)
    searched = (folder / "history.json").is_file() and not (folder / "summary.json").exists()
    parts = queries.parts(folder) if searched else _parts(folder)
    title = f"Architecture search {html.escape(folder.resolve().name)}"
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )
    return write_bytes(folder / "report.html", page.encode("utf-8", "replace"))


def _parts(folder: Path) -> list[str]:
    """The sections of a pipeline's report as HTML."""
    run = read_run(folder)
    return [
        sections.head(run),
        sections.cards(run),
        sections.comparison(run),
        sections.stages(run),
        sections.cells(run),
        sections.selection(run),
        sections.weights(run),
        sections.pictures(run),
        sections.fidelity(run),
        sections.curves(run),
        health(run),
        sections.reproduce(run),
    ]
