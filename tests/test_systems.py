"""Nothing needs Linux to be imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_nas.metrics.memory import peak_memory
from tests.conftest import ROOT

LINUX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
"""Modules of the standard library that Windows lacks."""


def imported_at_once(path: Path) -> set[str]:
    """Modules that a file imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_no_module_imports_what_windows_lacks() -> None:
    files = sorted((ROOT / "lightning_nas").rglob("*.py"))
    wrong = {str(path.relative_to(ROOT)): imported_at_once(path) & LINUX_ONLY for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_without_getrusage_the_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    before = peak_memory()
    assert before is not None
    assert (peak_memory(children=True) or 0) >= before > 2**20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory() is None


@pytest.mark.slow
def test_a_pipeline_is_imported_without_what_windows_lacks() -> None:
    code = (
        "import builtins\n"
        "original = builtins.__import__\n"
        "def refuse(name, globals=None, *rest):\n"
        "    ours = str((globals or {}).get('__name__')).startswith('lightning_nas')\n"
        f"    if ours and name.partition('.')[0] in {sorted(LINUX_ONLY)}:\n"
        "        raise ImportError(name)\n"
        "    return original(name, globals, *rest)\n"
        "builtins.__import__ = refuse\n"
        "import lightning_nas.pipeline.run, lightning_nas.cli.forecast, lightning_nas.export.network\n"
        "from lightning_nas.metrics.memory import peak_memory\n"
        "assert peak_memory() is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
