"""The notebooks run from start to end, and are stored with the outputs of such a run."""

import ast
import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason='pip install "lightning_nas[notebooks]"')
nbclient = pytest.importorskip("nbclient", reason='pip install "lightning_nas[notebooks]"')

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 1_500_000
ABSOLUTE = re.compile(r"(?<![\w.:/<])/[\w.-]+/|\b[A-Za-z]:\\|file://|~/")
"""Paths from a root, a drive or a home; ``runs/quickstart``, ``https://...`` and ``</b>`` are none."""

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def draws(cell: Any) -> bool:
    """Whether a cell calls one of the functions that make pictures."""
    calls = [node.func for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)]
    return any(isinstance(name, ast.Name) and name.id.startswith("draw_") for name in calls)


def check_outputs(notebook: Any) -> None:
    """Cells ran in their order, wrote nothing to stderr, and show the pictures that they make."""
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    drawing = [cell for cell in cells if draws(cell)]
    assert drawing
    for cell in drawing:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


def stored_text(value: Any, key: str = "") -> list[str]:
    """Every text in a notebook but the pictures' own."""
    if isinstance(value, str):
        return [] if key.startswith("image/") else [value]
    items = value.items() if isinstance(value, dict) else [(key, v) for v in value] if isinstance(value, list) else []
    return [text for name, inner in items for text in [name, *stored_text(inner, name)]]


def test_there_are_notebooks() -> None:
    assert "quickstart.ipynb" in [path.name for path in NOTEBOOKS]  # without any, the tests below would say nothing


@pytest.mark.slow
@each
def test_runs(path: Path, tmp_path: Path) -> None:
    notebook = copy.deepcopy(read(path))
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    folders = {name: str(tmp_path / name) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR")}
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**os.environ, **folders, "LIGHTNING_NAS_FAST": "1"})  # raises where a cell fails
    check_outputs(notebook)


@each
def test_needs_python_only(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_cells(notebook):
        ast.parse(cell.source)  # what begins with ! or % is no Python


@each
def test_is_stored_with_its_outputs(path: Path) -> None:
    check_outputs(read(path))
    assert path.stat().st_size < MOST_BYTES


@each
def test_tells_nothing_of_the_machine_that_made_it(path: Path) -> None:
    texts = stored_text(json.loads(path.read_text(encoding="utf-8")))
    assert len(texts) > 100
    assert [text for text in texts if ABSOLUTE.search(text)] == []
