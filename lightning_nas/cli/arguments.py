"""Wrong arguments of a command are refused in one paragraph that names the right ones, without a page of usage."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from lightning_nas.errors import ConfigError

_MOST_NAMES = 30
"""Number of names that a message lists; of longer lists, only those that resemble what was given are shown."""


class Parser(argparse.ArgumentParser):
    """A parser that raises ``ConfigError`` where ``argparse`` prints its usage, and takes no abbreviations.

    Args:
        prog: Name of the command, such as ``lightning-nas export``.
        description: What it does.
        epilog: What its help ends with.
        add_help: Whether the command has ``--help``.
    """

    def __init__(self, prog: str, description: str = "", epilog: str | None = None, add_help: bool = True) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, add_help=add_help, allow_abbrev=False)

        self._given: list[str] = []

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse a command line, and return what is left of it, too.

        Args:
            args: The command line; by default that of the process.
            namespace: Object that takes the values; by default a new one.
        """
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._given, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Args:
            message: What is wrong with them.

        Raises:
            ConfigError: Always.
        """
        missing = message.partition("are required: ")[2].split(", ")
        names = [arg.partition("=")[0] for arg in self._given if arg.startswith("--")]
        for name in names:  # a misspelt option is missing as well, but its own name says more
            if name not in options(self) and get_close_matches(name, missing):
                message = f"unrecognized arguments: {name}"
                break
        raise ConfigError(wrong_arguments(message, options(self), self.prog))


def options(parser: argparse.ArgumentParser) -> list[str]:
    """The options of a parser, such as ``--ckpt_path``.

    Args:
        parser: The parser.
    """
    return [name for action in parser._actions for name in action.option_strings if name.startswith("--")]


def wrong_arguments(said: str, known: Iterable[str], command: str) -> str:
    """Say which arguments of a command are wrong, and what was meant.

    Args:
        said: Message of ``argparse``.
        known: Options of the command.
        command: Name of the command.
    """
    said = " ".join(said.split())
    if found := re.match("unrecognized arguments: (.*)", said):
        given = found[1].split(" ")
        wrong = next((each for each in given if each.startswith("-")), given[0]).partition("=")[0]
        if not wrong.startswith("-"):
            return f"{wrong!r:.200} is not an argument of '{command}'. Leave it out, or name the option it belongs to."
        return f"{wrong:.200} is not an option of '{command}'. {suggestion(wrong, known)}".rstrip()
    said = said.removeprefix("argument ").replace("the following arguments are required", "It lacks")
    return f"{said[:2000].rstrip('.')}. '{command} --help' describes the arguments."


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """The names that were probably meant, or all names where none resembles a wrong one.

    Args:
        wrong: The wrong name.
        known: The right names.

    Returns:
        A sentence, or an empty text if there are many names and none of them is near.
    """
    names = list(dict.fromkeys(known))
    near = get_close_matches(wrong, names, n=3)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Expected one of {', '.join(names)}." if 0 < len(names) <= _MOST_NAMES else ""


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--import``, which all commands have.

    Args:
        parser: Parser of a command.
    """
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="modules",
        metavar="MODULE",
        help="import a module of your own classes first, so that files may name them; it is looked for in the working "
        "directory, too; the option can be repeated",
    )


def take_imports(command: str, args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take every ``--import MODULE`` out of the arguments of a command.

    Args:
        command: Name of the command.
        args: Its arguments.

    Returns:
        The modules, and the other arguments in their order.

    Raises:
        ConfigError: A module is missing.
    """
    parser = Parser(f"lightning-nas {command}", add_help=False)
    add_import(parser)
    given, rest = parser.parse_known_args(args)
    return given.modules, rest
