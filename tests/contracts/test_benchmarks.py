"""What every benchmark must have: a test that runs it, and a last line of JSON that says what it measured."""

import importlib
import inspect
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_has_a_test_that_runs_it(name: str) -> None:
    path = Path("tests") / "benchmarks" / f"test_{name}.py"
    assert (ROOT / path).is_file(), f"benchmarks/{name}.py has no test. Write {path}, which runs it in a tiny setting."
    main = getattr(importlib.import_module(f"benchmarks.{name}"), "main", None)
    if main is not None:
        tests = importlib.import_module(f"tests.benchmarks.test_{name}")
        assert getattr(tests, "main", None) is main, f"{path} does not run benchmarks.{name}.main"
        assert list(inspect.signature(main).parameters), f"benchmarks.{name}.main takes no arguments to test it with"


def test_a_test_has_its_benchmark() -> None:
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "benchmarks").glob("test_*.py")}
    assert tests == set(MODULES)
