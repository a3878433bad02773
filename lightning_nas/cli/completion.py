"""``lightning-nas completion``: a script that completes commands, options, configurations and classes in a shell."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import shtab
from jsonargparse import capture_parser

from lightning_nas.cli.arguments import Parser
from lightning_nas.cli.components import BASES, arguments, families, first_line, members
from lightning_nas.cli.config_files import COMPLETE, shipped_names
from lightning_nas.cli.lightning import NASCLI

PROGRAM = "lightning-nas"

_DEPTH = 2
"""Number of names after ``--model`` that are completed, as in ``--model.space.channels``."""

_PREAMBLES = {
    "bash": COMPLETE["bash"] + '() { local IFS=" "; compgen -W "%s" -- "$1"; compgen -f -- "$1"; }',
    "zsh": COMPLETE["zsh"] + '() { compadd "$@" -- %s; _files "$@"; }',
}
"""A function of each shell that completes the names of shipped configurations, and files."""


def script(shell: str, own: Mapping[str, argparse.ArgumentParser]) -> str:
    """The completion script of a shell.

    Args:
        shell: ``bash`` or ``zsh``.
        own: Parsers of the commands that don't run Lightning, by their names.
    """
    root = argparse.ArgumentParser(prog=PROGRAM, description="Neural architecture search.")
    root.add_argument("--version", action="store_true", help="Print the version.")
    # parsers that exist already take the place of those that argparse would make
    commands = root.add_subparsers(dest="command", parser_class=lambda made, **_: made)  # type: ignore[call-overload]
    for name, parser in {**own, **_stage_parsers()}.items():
        commands.add_parser(name, made=parser, help=str(parser.description))
        for action in parser._actions:
            _choose_files(action)
    preamble = _PREAMBLES[shell] % " ".join(shipped_names())
    text: str = shtab.complete(root, shell=shell, preamble=preamble)
    return text


def _choose_files(action: argparse.Action) -> None:
    """Let values of an option be completed where they are files, folders or configurations."""
    if "--config" in action.option_strings:
        action.complete = COMPLETE  # type: ignore[attr-defined]  # read by shtab
    elif action.nargs != 0 and not action.choices and not hasattr(action, "complete"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _stage_parsers() -> dict[str, argparse.ArgumentParser]:
    """Parsers of Lightning's commands with the arguments of all tasks and data modules of this library."""
    whole = capture_parser(NASCLI)
    (commands,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    nested = list(_nested())
    found: dict[str, argparse.ArgumentParser] = {}
    for name, parser in {**commands.choices, "forecast": commands.choices["fit"]}.items():
        made = Parser(f"{PROGRAM} {name}", str(parser.description or name))
        for action in parser._actions:
            options = [option for option in action.option_strings if not option.endswith("+")]
            if options and "--help" not in options and f"--{action.dest}" not in [one for one, *_ in nested]:
                _add(made, options, action.help, action.choices, flag=action.nargs == 0)
        for option, described, names in nested:
            _add(made, [option], described, names)
        found[name] = made
    found["fit"].add_argument("--forecast", choices=("true", "false"), help="Only measure a few steps.")
    return found


def _add(
    parser: Parser, options: Sequence[str], described: str | None, names: Sequence[str] | None, flag: bool = False
) -> None:
    """Add an option to a parser that is not meant to parse anything."""
    # the first sentence, without what would break the quoting of a shell
    text = re.split(r"\.\s", re.sub(r"[\"'`$\\\[\]{}]", "", " ".join((described or "").split())))[0].replace("%", "%%")
    more: dict[str, Any] = {"action": "store_true"} if flag else {"choices": list(names) if names else None}
    parser.add_argument(*options, help=text[:100], **more)


def _nested() -> Iterator[tuple[str, str, list[str]]]:
    """Options of tasks, data modules and their components: name, description, and names of classes that fit."""
    left = [[name] for name in BASES]
    for path in left:
        found = families(path)
        kinds = list(dict.fromkeys(member for base in found for member in members(base)))
        described = " or ".join(first_line(base) for base in found if base.__module__.startswith("lightning_nas."))
        yield f"--{'.'.join(path)}", described, [kind.__name__ for kind in kinds]
        for kind in kinds if len(path) <= _DEPTH else ():
            left += [[*path, name] for name in arguments(kind) if [*path, name] not in left]
