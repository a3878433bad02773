"""Every notebook runs in a fresh kernel, is stored with its pictures, and names no folder of the machine."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

nbclient = pytest.importorskip("nbclient", reason='pip install "lightning_nas[notebooks]"')
pytest.importorskip("ipykernel", reason='pip install "lightning_nas[notebooks]"')

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def texts(value: Any) -> list[str]:
    """All strings in a nested value but pictures, whose base64 may spell anything."""
    if isinstance(value, dict):
        return [text for key, part in value.items() if key != "image/png" for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


def test_there_are_notebooks() -> None:
    assert [path.name for path in NOTEBOOKS] == ["quickstart.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_with_the_results_of_one_run(path: Path) -> None:
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    drawn = [cell for cell in code if re.search(r"^\s*(display\()?draw_", "".join(cell["source"]), re.M)]
    assert len(drawn) >= 6
    for cell in drawn:
        assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), "".join(cell["source"])
    assert path.stat().st_size < 1_500_000
    assert cells(path, "markdown")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_has_python_alone_and_no_folder_of_a_machine(path: Path) -> None:
    for cell in cells(path, "code"):
        assert not re.search(r"^\s*[!%]", "".join(cell["source"]), re.M), "a shell cell can fail unseen"
    stored = json.loads(path.read_text())
    found = [text for text in texts(stored) if re.search(r"(^|[\s'\"=(])/(home|root|tmp|work|Users|usr|opt)/", text)]
    assert not found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of jupyter's own sockets
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    import nbformat

    own = {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_CONFIG_DIR": str(tmp_path / "jupyter")}
    environment = {**os.environ, **own, "LIGHTNING_NAS_FAST": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=environment)  # raises where a cell fails
    assert (tmp_path / "runs" / "quickstart" / "network.py").is_file()
