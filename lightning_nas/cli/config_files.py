"""The shipped configurations: found by name, listed and copied. Nothing here imports torch."""

import re
import shutil
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher, get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml

from lightning_nas.cli.arguments import Parser
from lightning_nas.errors import ConfigError

_SUFFIX = ".yaml"

_OPTIONS = ("-c", "--config")
"""Options of Lightning's commands that take a configuration."""

COMPLETE = {"bash": "_lightning_nas_config", "zsh": "_lightning_nas_config"}
"""Functions of the shells that complete a configuration, as shtab reads them from an argument's ``complete``."""

_WIDTH = 118
"""Number of characters of a line in the list."""


def shipped_folder() -> Path:
    """The folder of the shipped configurations.

    A built distribution holds it inside the package. In a clone, also one installed with ``pip install -e``, it is the
    folder ``configs`` beside the package.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_names() -> list[str]:
    """Names of the shipped configurations, such as ``pipeline/digits``."""
    folder = shipped_folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob(f"*/*{_SUFFIX}"))


def find_config(name: str | Path, base: Path | None = None) -> Path:
    """Find a configuration: a file, or a shipped configuration by its name. The suffix ``.yaml`` may be left out.

    Args:
        name: Path of a file, or name of a shipped configuration, such as ``pipeline/digits``.
        base: Folder that is searched before the working directory, for a name that stands in a file of this folder.

    Returns:
        Path of the file: below ``base``, else relative to the working directory, else among the shipped ones.

    Raises:
        ConfigError: There is no such file, and no shipped configuration of that name.
    """
    names = [Path(name)] if str(name).endswith(_SUFFIX) else [Path(name), Path(f"{name}{_SUFFIX}")]
    for folder in (Path(),) if base is None else (base, Path()):
        for each in names:
            if (folder / each).is_file():
                return folder / each
    short = Path(name).as_posix().removesuffix(_SUFFIX)
    if short in shipped_names():
        return shipped_folder() / f"{short}{_SUFFIX}"
    near = _near(short)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(
        f"{str(name):.200} is neither a file nor the name of a shipped configuration. {meant}'lightning-nas configs' "
        "lists the shipped ones."
    )


def _near(wrong: str) -> list[str]:
    """The shipped names that resemble a wrong one, as a whole or in their last part."""
    names = shipped_names()
    last = wrong.rpartition("/")[2]
    alike = [name for name in names if get_close_matches(name.rpartition("/")[2], [last], cutoff=0.8)]
    found = {*alike, *get_close_matches(wrong, names, n=3)}
    return sorted(found, key=lambda name: (-SequenceMatcher(None, wrong, name).ratio(), name))[:3]


def with_config_paths(args: Sequence[str]) -> list[str]:
    """Replace the names of configurations in a command line by the paths of their files.

    Args:
        args: Command line. Values of ``--config`` that hold YAML rather than a name are left as they are.

    Raises:
        ConfigError: A configuration cannot be found.
    """
    found = list(args)
    for place, arg in enumerate(args):
        key, equals, text = arg.partition("=")
        if key not in _OPTIONS or not (equals or place + 1 < len(args)):
            continue
        path = _path_or_yaml(text if equals else args[place + 1])
        found[place if equals else place + 1] = f"{key}={path}" if equals else path
    return found


def _path_or_yaml(text: str) -> str:
    return text if not text or re.search(r"[:{\n]", text) else str(find_config(text))


def description(path: Path) -> str:
    """The first sentence of the comment that a configuration begins with.

    Args:
        path: The configuration.
    """
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return re.split(r"(?<=[\w)])\.(?:\s|$)", " ".join(lines), maxsplit=1)[0]


def matching(pattern: str | None) -> list[str]:
    """Names of the shipped configurations that match a pattern.

    Args:
        pattern: A part of the name, in which ``*`` and ``?`` stand for any characters; None for all.

    Raises:
        ConfigError: None matches.
    """
    every = shipped_names()
    names = [name for name in every if pattern in (None, name)]
    names = names or [name for name in every if fnmatch(name, f"*{pattern}*")]
    if not names:
        near = _near(str(pattern))
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"No shipped configuration matches {pattern!r:.200}.{meant}")
    return names


def with_references(names: Sequence[str]) -> list[str]:
    """Add the configurations that others refer to, so that references still work in a copy.

    Args:
        names: Names of shipped configurations.

    Returns:
        The names, and those of all files that they refer to by relative paths.
    """
    root = shipped_folder()
    found: dict[str, None] = {}
    left = list(names)
    while left:
        name = left.pop(0)
        if name in found:
            continue
        found[name] = None
        path = root / f"{name}{_SUFFIX}"
        texts = _texts(yaml.safe_load(path.read_text(encoding="utf-8")))
        files = [path.parent / text for text in texts if text.endswith(_SUFFIX) and (path.parent / text).is_file()]
        left += [file.resolve().relative_to(root).with_suffix("").as_posix() for file in files]
    return sorted(found)


def _texts(content: Any) -> Iterator[str]:
    """All texts in a configuration."""
    if isinstance(content, str):
        yield content
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    for part in parts:
        yield from _texts(part)


def copy(names: Sequence[str], folder: Path) -> list[Path]:
    """Copy shipped configurations in their layout.

    Args:
        names: Names of shipped configurations.
        folder: Folder for the copies.

    Returns:
        Paths of the copies.

    Raises:
        ConfigError: A file of another content is there already. Nothing is copied then.
    """
    pairs = [(shipped_folder() / f"{name}{_SUFFIX}", folder / f"{name}{_SUFFIX}") for name in names]
    changed = [str(copied) for path, copied in pairs if copied.exists() and copied.read_bytes() != path.read_bytes()]
    if changed:
        raise ConfigError(
            f"{', '.join(changed[:3])}{' and others' if changed[3:] else ''} would be overwritten, and differ from "
            "the shipped ones. Move or delete them, or name another folder by --copy."
        )
    for path, copied in pairs:
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)
    return [copied for _, copied in pairs]


def parser() -> Parser:
    """The parser of ``lightning-nas configs``."""
    made = Parser(
        prog="lightning-nas configs",
        description="List the shipped configurations, or copy them to change them.",
        epilog="Every command takes a name from the list: 'lightning-nas pipeline --config pipeline/digits' and "
        "'lightning-nas fit --config search/darts'. A file of that path in the working directory comes first.",
    )
    pattern = made.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN",
        help="part of the name, such as nasbench201 or 'search/*' (default: all)",
    )
    made.add_argument(
        "--copy",
        type=Path,
        metavar="DIR",
        help="copy them to this folder, with the files that they refer to",
    )
    pattern.complete = COMPLETE  # type: ignore[attr-defined]
    return made


def main(args: Sequence[str]) -> None:
    """Run ``lightning-nas configs``.

    Args:
        args: Arguments after the command.

    Raises:
        ConfigError: No configuration matches, or a copy would overwrite another file.
    """
    given = parser().parse_args(args)
    names = matching(given.pattern)
    if given.copy is not None:
        for copied in copy(with_references(names), given.copy):
            print(copied)
        return
    width = max(map(len, names))
    for name in names:
        said = description(shipped_folder() / f"{name}{_SUFFIX}")
        print(f"{name:<{width}}  {shorten(said, _WIDTH - width - 2, placeholder=' …')}".rstrip())
