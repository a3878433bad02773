"""The examples of the pages run as they are printed."""

import ast
import re
import shlex
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import lightning_nas.cli.lightning  # noqa: F401  # Lightning changes the environment when it is first imported
from lightning_nas.__main__ import main
from tests.conftest import ROOT

FENCE = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
COMPONENTS = ROOT / "docs" / "components"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    text: str


class Section(NamedTuple):
    """A second-level section of a page, with all its blocks."""

    page: str
    name: str
    blocks: list[Block]


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(text)]


def sections(page: Path) -> list[Section]:
    text = re.sub(r"^### ", "    ### ", page.read_text(), flags=re.MULTILINE)
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
    return [Section(page.stem, name, blocks(part)) for name, part in zip(parts[::2], parts[1::2], strict=True)]


SHARED = [block for block in blocks((COMPONENTS / "index.md").read_text()) if block.title]
EXAMPLES = [
    section
    for page in sorted(COMPONENTS.glob("*.md"))
    if page.stem != "index"
    for section in sections(page)
    if any(block.title for block in section.blocks)
]


def write(found: list[Block], folder: Path) -> list[Path]:
    paths = []
    for block in found:
        if block.title:
            path = folder / block.title
            path.write_text(block.text)
            paths.append(path)
    return paths


def commands(found: list[Block]) -> list[list[str]]:
    lines = [
        line for block in found if block.language == "bash" for line in block.text.replace("\\\n", " ").splitlines()
    ]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("lightning-nas ")]


def functions(path: Path) -> set[str]:
    """Qualified names of all functions of a file that have a body of their own."""
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of an example: modules are found in it, and the configurations under ``configs``."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("section", EXAMPLES, ids=lambda section: f"{section.page}-{section.name}".replace(" ", "_"))
def test_component(section: Section, folder: Path) -> None:
    """The files of a section are written, its commands run, and every function of the example is called."""
    write(SHARED, folder)
    files = write(section.blocks, folder)
    sources = [path for path in files if path.suffix == ".py"]
    run = commands(section.blocks)
    assert run or any(block.language == "python" and not block.title for block in section.blocks)
    named = " ".join(word for arguments in run for word in arguments)
    assert all(path.name in named for path in files if path.suffix == ".yaml"), "a file is not used"
    with called(sources) as seen:
        for arguments in run:
            main([*arguments, *QUIET] if arguments[0] in ("fit", "validate", "test") else arguments)
        for block in section.blocks:
            if block.language == "python" and not block.title:
                exec(compile(block.text, f"{section.page}: {section.name}", "exec"), {"__name__": "__main__"})
    missed = {(str(path), name) for path in sources for name in functions(path)} - seen
    assert not missed, f"never called: {sorted(name for _, name in missed)}"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/data.md", "docs/concepts/queries.md", "docs/api/index.md"])
def test_python(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python of a page runs."""
    found = [block for block in blocks((ROOT / page).read_text()) if block.language == "python"]
    assert found
    for block in found:
        exec(compile(block.text, page, "exec"), {"__name__": "__main__"})
    if page == "README.md":
        assert "Genotype(normal=" in capsys.readouterr().out
