"""What the parser of Lightning's commands refuses, in one paragraph: what was received, and what was expected."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LRSchedulerTypeUnion
from torch import nn
from torch.optim import Optimizer

from lightning_nas.cli.arguments import options, suggestion, wrong_arguments
from lightning_nas.cli.components import BASES
from lightning_nas.cli.config_files import with_config_paths
from lightning_nas.errors import ConfigError

_LONGEST = 200
"""Number of characters of a value that a message shows."""

_LARGEST_FILE = 2**20
"""Number of bytes of the largest file that is searched for class paths before the parser reads it.

An option may name a file of data or a checkpoint; YAML takes tens of seconds for each million of bytes."""

_PLACE = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'|Namespace\(class_path='([^']+)'")
_GIVEN = re.compile(r"(?:Given value|Got value): (.*?)(?:\. Got value: .*)?$", re.MULTILINE)
_NESTED = re.compile(r"NestedArg\(key='([^']*)', val=(.*)\)", re.DOTALL)
_NO_OPTION = re.compile(r"Option '([^']+)' is not accepted|\n\s+unrecognized arguments: --(\w+)")
_EXPECTED = "Expected a "
_NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value type", "Expected a path but", "Problem with")
_NO_CLASS = "Expected a dot import path string"
_NO_FUNCTION = "to be a function that returns"
_LACKS = re.compile(r"the following arguments are required: (.*)")


class OneParagraphParser(LightningArgumentParser):
    """Lightning's parser, which finds configurations by name, and raises ``ConfigError`` in the place of its usage."""

    def parse_args(self, args: Sequence[str] | None = None, *options: Any, **more: Any) -> Any:  # type: ignore[override]
        """Parse a command line.

        Args:
            args: The command line; by default that of the process.
            options: Options of the parser of jsonargparse.
            more: Options of the parser of jsonargparse.

        Raises:
            ConfigError: The arguments are wrong, or a configuration cannot be found.
        """
        return super().parse_args(with_config_paths(sys.argv[1:] if args is None else args), *options, **more)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse the arguments.

        Args:
            message: What is wrong with them.
            ex: Error behind the message.

        Raises:
            ConfigError: The arguments of the command line are wrong.
            ArgumentError: Those of a part are, which the parser may try in another way.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        command = f"lightning-nas {getattr(parser, 'subcommand', '')}".strip()
        raise ConfigError(explanation(message, options(parser), command)) from ex


def explanation(said: str, known: Sequence[str], command: str) -> str:
    """Find in a message of the parser what the user has to know.

    The parser describes every way in which it has tried to use a value, from the whole task to the innermost argument.

    Args:
        said: The message.
        known: Options of the command.
        command: Name of the command.
    """
    places = list(_PLACE.finditer(said))
    place = ".".join(found[1] for found in places)
    if found := _NO_OPTION.search(said):
        # an optimizer is named after its wrong argument, all other classes before it
        after = _CLASS.match(said[found.end() :].removeprefix(". Got value: "))
        around = [after] if after else [*_CLASS.finditer(said[: found.start()])]
        kind = locate(around[-1][1] or around[-1][2]) if around else None
        return _no_argument(place, found[1] or found[2], kind if isinstance(kind, type) else None, known)
    if found := _LACKS.search(said):
        missing = [f"{place}.{name}" if place else name.rpartition(".")[2] for name in found[1].split(", ")]
        them = "it" if len(missing) == 1 else "them"
        return (
            f"{', '.join(missing)} must be given. Set {them} in the file of --config, or as --{missing[0]} VALUE. "
            "'lightning-nas configs' lists the shipped files."
        )
    if not places:
        return wrong_arguments(said, known, command)
    return _wrong_value(said, places[-1].start(), place, command)


def _no_argument(place: str, name: str, kind: type | None, known: Sequence[str]) -> str:
    """Say that a class doesn't have an argument, and which one was meant."""
    name = name.replace("init_args.", "")
    said = f"{place}.{name} is not an argument of {'the configuration' if kind is None else kind.__name__}"
    names = known if kind is None else [each for each in options(_parser_of(kind)) if not each.endswith(".help")]
    if not names:
        return f"{said}, which takes none. Name the class that has it, or --config, before it."
    return f"{said}. {suggestion(name.partition('.')[0], [each.removeprefix('--') for each in names])}".rstrip()


def _wrong_value(said: str, start: int, place: str, command: str) -> str:
    """Say what the value of an argument is, and what it should be.

    Args:
        said: Message of the parser.
        start: Where it comes to the innermost argument.
        place: Dotted name of that argument.
        command: Name of the command.
    """
    owners = [each[1] or each[2] for each in _CLASS.finditer(said[:start])]
    lines = said[:start].rpartition("\n")[2] + said[start:]
    first, *rest = lines.splitlines()
    depth = len(first) - len(first.lstrip())
    # what is less indented is about the classes around it
    inner = [first[first.rindex(":") + 1 :] if first.endswith(":") else first.partition('":')[2]]
    inner += takewhile(lambda line: not line.strip() or len(line) - len(line.lstrip()) > depth, rest)
    given = _GIVEN.search("\n".join(inner)) or _GIVEN.search(said)
    value = given[1].strip() if given else ""
    if nested := _NESTED.match(value):
        value = nested[2].strip("'")
    if kind := _CLASS.search(value):
        value = kind[1] or kind[2]
    cleaned = [_GIVEN.sub("", line).strip(" -") for line in inner]
    useful = [line for line in cleaned if line and not line.startswith(_NOISE)]
    about_classes = any(word in line for line in useful for word in ("import path", "Import path", "class"))
    expected = _expected(place, owners) if about_classes else []
    if expected:
        names = sorted({base.__name__ for base in expected})
        known = sorted({each.__name__ for base in expected for each in _derived(base)})
        typed = ", or a function that is annotated to return one" if _NO_FUNCTION in " ".join(useful) else ""
        return (
            f"{place} is {value[:_LONGEST]!r}; it must name a class that derives from {' or '.join(names)}{typed}. "
            f"{suggestion(value.rpartition('.')[2], known)}"
        ).rstrip()
    useful = [line for line in useful if not line.startswith(_NO_CLASS)]
    types = [_type_name(line.removeprefix(_EXPECTED)) for line in useful if line.startswith(_EXPECTED)]
    others = [line for line in useful if not line.startswith(_EXPECTED)]
    wanted = [f"it must be of type {' or '.join(dict.fromkeys(types))}"] if types else []
    shown = f"is {value[:_LONGEST]!r}" if given else "is wrong"
    said = f"{place} {'; '.join([shown, *wanted, *dict.fromkeys(others)]):.1500}".rstrip(".")
    return f"{said}. '{command} --help' describes the arguments."


def _type_name(text: str) -> str:
    """A type as a configuration's reader knows it: ``<class 'int'>`` is ``int``."""
    name = re.sub(r"<class '([^']+)'>", r"\1", text.rstrip(". ")).removeprefix("typing.")
    return "null" if name == "NoneType" else name


def _parser_of(kind: type) -> LightningArgumentParser:
    """A parser of the arguments of a class, also of those that it passes on to others."""
    parser = LightningArgumentParser(add_help=False)
    parser.add_class_arguments(kind)
    return parser


def _expected(place: str, owners: Sequence[str]) -> list[type]:
    """The classes in the annotation of an argument, if it takes a class.

    Args:
        place: Dotted name of the argument.
        owners: Full paths of the classes around it.
    """
    *around, argument = place.split(".")
    if not around and argument in BASES:
        return [BASES[argument]]
    owner = locate(owners[-1]) if owners else Trainer if around == ["trainer"] else None
    kinds: tuple[type, ...] = owner.__mro__ if isinstance(owner, type) else ()
    for kind in kinds:
        hints = get_type_hints(vars(kind)["__init__"]) if "__init__" in vars(kind) else {}
        if argument in hints:
            return list(_classes(hints[argument]))
    return []


def _classes(annotation: Any) -> Iterator[type]:
    """The classes that an annotation such as ``Callable[[Iterable], Optimizer] | None`` asks for."""
    if get_origin(annotation) is Literal:
        return
    parts = get_args(annotation)
    if isinstance(annotation, type) and not parts and _is_component(annotation):
        yield annotation
    for part in parts[-1:] if parts and isinstance(parts[0], list) else parts:
        yield from _classes(part)


def _is_component(kind: type) -> bool:
    """Whether a configuration makes an object of a class, and not a value as of a built-in one."""
    return kind.__module__ not in ("builtins", "pathlib", "typing", "collections.abc", "datetime", "torch")


def _derived(base: type) -> Iterator[type]:
    """All imported classes that derive from a class, as the parser finds them by their name."""
    below: list[type] = base.__subclasses__()
    for each in below:
        if not each.__name__.startswith("_"):
            yield each
        yield from _derived(each)


def class_paths(config: Any, where: str) -> dict[str, str]:
    """Collect every ``class_path`` of a configuration.

    Args:
        config: The configuration, or a part of it.
        where: Dotted name of the part.

    Returns:
        Class paths by the dotted name of their place, without ``init_args``.
    """
    found = {}
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        if key == "class_path":
            found[where] = str(value)
        else:
            found |= class_paths(value, where if key == "init_args" else f"{where}.{key}".lstrip("."))
    return found


def given_class_paths(args: Sequence[str]) -> dict[str, str]:
    """Collect every ``class_path`` of a command line, and of the files of at most a megabyte that it names.

    Args:
        args: Command line without the program's name.

    Returns:
        Class paths by the dotted name of their place.
    """
    found: dict[str, str] = {}
    for place, arg in enumerate(args):
        key, equals, text = arg.partition("=")
        if not key.startswith("-") or not (equals or place + 1 < len(args)):
            continue
        key, text = key.lstrip("-").removesuffix("+"), text if equals else args[place + 1]
        if key.endswith(".class_path"):
            found[key.removesuffix(".class_path").replace(".init_args", "")] = text
            continue
        with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):  # the parser says what is wrong with it
            content = yaml.safe_load(text)
            if isinstance(content, str) and Path(content).is_file():
                small = Path(content).stat().st_size <= _LARGEST_FILE
                text = Path(content).read_text() if small else ""
                content = yaml.safe_load(text) if "class_path" in text else None
            found |= class_paths(content, "" if key in ("c", "config") else key.replace(".init_args", ""))
    return found


def check_are_classes(found: Mapping[str, str]) -> None:
    """Refuse a configuration in which a ``class_path`` names anything but a class.

    The parser compares classes with the type of an argument, but calls any function that stands for an optimizer, a
    scheduler or a network. A function that is annotated to return another component, such as a logger, passes: the
    parser compares what it returns, and writes a function that was named alone as a ``class_path``, too.

    Args:
        found: Class paths by place, from ``class_paths`` or ``given_class_paths``. A name without a module is left to
            the parser, which knows the classes that an argument takes.

    Raises:
        ConfigError: A ``class_path`` names a function or another object; it has not been called.
    """
    for place, path in found.items():
        named = None
        with suppress(ErrorDuringImport):  # the parser says so
            named = locate(path) if "." in path else None
        if named is not None and not isinstance(named, type) and not _returns_component(named):
            raise ConfigError(
                f"{place} has the class_path {path:.200}, which is not a class. Name a class that this argument "
                "accepts, such as torch.optim.SGD for an optimizer; a function that is annotated to return one is "
                f"named alone, without class_path and init_args: {place.rpartition('.')[2]}: {path:.200}."
            )


def _returns_component(function: Any) -> bool:
    """Whether a function is annotated to return a component that is built before it is used."""
    try:
        returned = get_type_hints(function).get("return")
    except (TypeError, NameError):  # no function, or an annotation that cannot be resolved
        return False
    later = (nn.Module, Optimizer, *get_args(LRSchedulerTypeUnion))
    return isinstance(returned, type) and _is_component(returned) and not issubclass(returned, later)
