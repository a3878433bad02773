"""A wheel holds everything that the first command of the README needs, in an empty folder and without a clone."""

import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipeline.test_run import SCREEN, SMALL, pairs

TINY = {"pipeline/digits": SMALL, "pipeline/digits_screen": SCREEN}
"""What makes the pipeline of the README's first command tiny."""

OLDEST = 77
"""The first version of setuptools that builds this package."""


def python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(*command: str | Path) -> str:
    """Run a command that sees no other copy of the package than the installed one."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=variables, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree, built with the setuptools of this environment."""
    for name, oldest in (("pip", 23), ("setuptools", OLDEST)):
        try:
            found = int(version(name).partition(".")[0])
        except PackageNotFoundError:
            found = 0
        if found < oldest:
            pytest.skip(
                f"a wheel is built with {name} of at least version {oldest}; this environment has {found or 'none'}"
            )
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("lightning_nas", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel. All other packages are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    run(sys.executable, "-m", "pip", "--python", python(folder), "install", "-q", "--no-deps", "--no-index", wheel)
    others = {*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own,) = folder.rglob("site-packages")
    # paths in this file are only searched for packages, so that no editable installation comes with them
    (own / "others.pth").write_text("\n".join(sorted(others)))
    return folder


@pytest.mark.slow
def test_a_wheel_holds_all_files_of_the_package_and_all_configurations(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    package = [
        path for path in (ROOT / "lightning_nas").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    expected = {path.relative_to(ROOT).as_posix() for path in package}
    expected |= {f"lightning_nas/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert expected - held == set()
    assert {name for name in held - expected if ".dist-info/" not in name} == set()


@pytest.mark.slow
def test_the_first_command_of_the_readme_runs_in_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    first = shlex.split(re.findall(r"lightning-nas (pipeline .*)", text)[0])
    options = pairs(TINY[first[first.index("--config") + 1]])
    place = run(python(environment), "-c", "import lightning_nas; print(lightning_nas.__file__)")
    assert Path(place).is_relative_to(environment)
    program = python(environment).parent / "lightning-nas"
    run(program, *first, "--run_dir", tmp_path / "run", *options)
    assert 0 <= json.loads((tmp_path / "run" / "summary.json").read_text())["test_accuracy"] <= 1
    assert (tmp_path / "run" / "report.html").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
