"""The examples of the pages run as they are printed, and every command of the pages is one that the parser takes."""

import ast
import re
import shlex
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from lightning_nas.__main__ import COMMANDS, main, parsers
from lightning_nas.cli.lightning import NASCLI
from lightning_nas.compare.config import parse as parse_study
from lightning_nas.compare.runs import runs as study_runs
from lightning_nas.pipeline.config import parse
from lightning_nas.pipeline.stages import resolve
from lightning_nas.tasks.bilevel import BilevelTask
from tests.conftest import ROOT

DOCS = ROOT / "docs"
COMPONENTS = DOCS / "components"
FENCE = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LIGHTNING = ("fit", "validate", "test", "predict")
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    text: str


class Section(NamedTuple):
    """A second-level section of a page: its blocks, and the files that all sections of the page share."""

    page: str
    name: str
    blocks: list[Block]
    shared: list[Block]


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(text)]


SHARED = blocks((COMPONENTS / "index.md").read_text())


def sections(page: Path) -> list[Section]:
    head, *parts = re.split(r"^## (.+)\n", page.read_text(), flags=re.MULTILINE)
    named = zip(parts[::2], parts[1::2], strict=True)
    return [Section(page.stem, name, blocks(part), [*SHARED, *blocks(head)]) for name, part in named]


EXAMPLES = [
    section
    for page in (*sorted(COMPONENTS.glob("*.md")), DOCS / "guides" / "pipeline.md")
    if page.stem != "index"
    for section in sections(page)
    if any(block.title for block in section.blocks)
]
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def write(found: list[Block], folder: Path) -> list[Path]:
    paths = []
    for block in found:
        if block.title:
            path = folder / block.title
            path.write_text(block.text)
            paths.append(path)
    return paths


def commands(block: Block) -> list[list[str]]:
    """Arguments of every call of the command line in a block of shell commands."""
    lines = block.text.replace("\\\n", " ").splitlines() if block.language == "bash" else []
    calls = [line[line.index("lightning-nas ") :] for line in lines if "lightning-nas " in line.split("#")[0]]
    return [shlex.split(call, comments=True)[1:] for call in calls]


def execute(block: Block, page: str) -> None:
    exec(compile(block.text, page, "exec"), {"__name__": "__main__"})


def functions(path: Path) -> set[str]:
    """Qualified names of all functions of a file."""
    found = set()

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                walk(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef):
                found.add(f"{prefix}{child.name}")
                walk(child, f"{prefix}{child.name}.<locals>.")

    walk(ast.parse(path.read_text()), "")
    return found


@contextmanager
def called(paths: list[Path]) -> Iterator[set[tuple[str, str]]]:
    """File and qualified name of every function of some files that is called inside."""
    seen: set[tuple[str, str]] = set()
    files = {str(path) for path in paths}

    def look(frame: types.FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in files:
            seen.add((code.co_filename, code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield seen
    finally:
        sys.setprofile(before)


def forget(folder: Path) -> None:
    """Let every command find its modules by itself, as the process of a shell's command has to."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of an example, without a clone: modules are found in it, configurations by their names."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("section", EXAMPLES, ids=lambda section: f"{section.page}-{section.name}".replace(" ", "_"))
def test_component(section: Section, folder: Path) -> None:
    """The files of a section are written, its blocks run in order, and every function of the files is called."""
    write(section.shared, folder)
    files = write(section.blocks, folder)
    sources = [path for path in files if path.suffix == ".py"]
    own, head = (
        [block for block in found if not block.title and block.language in ("bash", "python")]
        for found in (section.blocks, section.shared)
    )
    runs = [*(block for block in head if block.language == "python"), *own]
    named = "".join(block.text for block in own)
    assert all(path.name in named for path in files if path.suffix == ".yaml"), "a file is not used"
    with called(sources) as seen:
        for block in runs:
            if block.language == "python":
                execute(block, section.page)
            for arguments in commands(block):
                forget(folder)
                main([*arguments, *QUIET] if arguments[0] in LIGHTNING else arguments)
    missed = {(str(path), name) for path in sources for name in functions(path)} - seen
    assert not missed, f"never called: {sorted(name for _, name in missed)}"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/data.md", "docs/concepts/queries.md", "docs/api/index.md"])
def test_python(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python of a page runs."""
    found = [block for block in blocks((ROOT / page).read_text()) if block.language == "python"]
    assert found
    for block in found:
        execute(block, page)
    if page == "README.md":
        assert "Genotype(normal=" in capsys.readouterr().out


CALLS = {
    shlex.join(arguments): arguments
    for page in PAGES
    if page.parent != COMPONENTS
    for block in blocks(page.read_text())
    for arguments in commands(block)
    if arguments[0] in COMMANDS and "chain.yaml" not in arguments
}
"""All commands of the pages."""


@pytest.mark.parametrize("call", CALLS)
def test_command(call: str, folder: Path) -> None:
    """The parser takes a command of a page; nothing is built."""
    (folder / "link1").mkdir()
    (folder / "link1" / "space.yaml").write_text(
        "model:\n  init_args:\n    space:\n      class_path: NASBench201Space\n"
    )
    command, *arguments = CALLS[call]
    arguments = [argument for argument in arguments if argument != "..."]
    if command == "pipeline":
        pipeline = parse(arguments)
        stages = {stage.name: stage for stage in resolve(pipeline.config, folder / "run", pipeline.base)}
        assert stages["train"].test
        return
    if command == "compare":
        study = parse_study(arguments)
        assert all(run.pipeline().stages for run in study_runs(study))
        return
    if command in parsers():
        parsers()[command].parse_known_args(arguments)
        return
    if "--ckpt_path" in arguments:  # an option of the command itself
        place = arguments.index("--ckpt_path")
        del arguments[place : place + 2]
    NASCLI(args=arguments, run=False)


def test_every_package_has_a_reference_page() -> None:
    """Packages that export something are on a page of the API reference, which lists what they export."""
    exporting = {
        path.parent.name for path in (ROOT / "lightning_nas").glob("*/__init__.py") if "__all__" in path.read_text()
    }
    navigation = (ROOT / "mkdocs.yml").read_text()
    for package in exporting:
        assert f"::: lightning_nas.{package}\n" in (DOCS / "api" / f"{package}.md").read_text()
        assert f"api/{package}.md" in navigation


def test_the_sweep_of_weights_and_biases_gives_arguments_that_the_parser_takes(folder: Path) -> None:
    """A sweep replaces ``${args}`` by its parameters, each as ``--name=value``."""
    page = (DOCS / "guides" / "compare.md").read_text()
    (sweep,) = [yaml.safe_load(block.text) for block in blocks(page) if block.title == "sweep.yaml"]
    values = {name: given.get("min", (given.get("values") or [0])[0]) for name, given in sweep["parameters"].items()}
    program, command, *options = sweep["command"]
    assert (program, options.pop()) == ("lightning-nas", "${args}")
    with pytest.raises(SystemExit, match="0"):
        NASCLI(args=[command, *options, *(f"--{name}={value}" for name, value in values.items()), "--print_config"])
    assert sweep["metric"]["name"] in BilevelTask.metrics_logged


def test_the_objective_of_optuna_changes_a_study(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The objective of the page gets the mean of the one entry that it leaves."""
    page = (DOCS / "guides" / "compare.md").read_text()
    (example,) = [block for block in blocks(page) if block.title == "tune.py"]
    tried: list[list[str]] = []

    def compare(args: list[str]) -> None:
        tried.append(args)
        assert [run.entry for run in study_runs(parse_study(args[1:]))] == ["random"] * 3
        path = Path(args[args.index("--output_dir") + 1], "compare.json")
        path.parent.mkdir(parents=True)
        path.write_text('{"entries": [{"mean": 97.5}]}')

    class Study:
        best_params = "best"

        def optimize(self, objective: Callable[[Any], float], n_trials: int) -> None:
            trial = types.SimpleNamespace(number=3, suggest_float=lambda *args, **options: 0.05)
            assert objective(trial) == 97.5

    optuna = types.ModuleType("optuna")
    optuna.Trial, optuna.create_study = object, lambda **options: Study()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    monkeypatch.setattr("lightning_nas.__main__.main", compare)
    execute(example, "compare")
    assert len(tried) == 1
