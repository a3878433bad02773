"""What no module of the package imports when it is imported itself."""

import ast

from tests.conftest import ROOT

SLOW = {
    "matplotlib",
    "mlflow",
    "onnx",
    "onnxruntime",
    "pandas",
    "pymoo",
    "ray",
    "scipy",
    "sklearn",
    "torchvision",
    "wandb",
}
"""Packages that take long to import or need not be installed: what uses them imports them when it is called."""

MODULES = sorted((ROOT / "lightning_nas").rglob("*.py"))


def imported(tree: ast.Module) -> set[str]:
    """The packages that are imported outside of functions, other than for type checkers."""
    found, waiting = set(), list(ast.iter_child_nodes(tree))
    for node in waiting:
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def test_slow_packages_are_imported_where_they_are_used() -> None:
    found = {str(path.relative_to(ROOT)): imported(ast.parse(path.read_text())) & SLOW for path in MODULES}
    assert {path: packages for path, packages in found.items() if packages} == {}


def test_imports_are_found() -> None:
    source = "import scipy.stats\nclass A:\n  from torch import nn\n"
    source += "if TYPE_CHECKING:\n  import wandb\ndef f(): import ray"
    assert imported(ast.parse(source)) == {"scipy", "torch"}
