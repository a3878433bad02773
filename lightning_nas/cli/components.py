"""Help for components: which members a family has, and which arguments one of them takes."""

import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from lightning_nas import (
    baselines,
    callbacks,
    data,
    differentiable,
    distill,
    evaluation,
    predictors,
    spaces,
    strategies,
    supernets,
    tables,
    tasks,
)
from lightning_nas.cli.arguments import suggestion
from lightning_nas.errors import ConfigError

FAMILIES = (
    *(tasks, data, spaces, differentiable, distill, supernets, baselines),
    *(evaluation, predictors, strategies, tables, callbacks),
)
"""Packages whose public classes configurations name without a module, which works for what is imported."""

BASES = {"model": LightningModule, "data": LightningDataModule}
"""Base class of what the command line calls so."""

_WIDTH = 118
"""Number of characters of a line in a list."""

_LONGEST = 60
"""Number of characters of a default value in a list."""


def first_line(kind: type) -> str:
    """The first line of a class's docstring.

    Args:
        kind: The class.
    """
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def members(base: type) -> list[type]:
    """The classes of this library that can take the place of a base class.

    Args:
        base: Base class of a family.
    """
    public = [getattr(package, name) for package in FAMILIES for name in package.__all__]
    kinds = [each for each in public if inspect.isclass(each) and issubclass(each, base)]
    return [each for each in kinds if not inspect.isabstract(each) and each is not base]


def families(path: Sequence[str]) -> dict[type, list[str]]:
    """Base classes of what an option names.

    Args:
        path: The option without ``--`` and ``.help``, such as ``["model", "evaluator", "table"]``.

    Returns:
        Every base class, with the names of the classes that take it as an argument.
    """
    found: dict[type, list[str]] = {BASES[path[0]]: []}
    for argument in path[1:]:
        owners = dict.fromkeys(member for base in found for member in members(base))
        found = {}
        for owner in owners:
            for base in _annotated(owner, argument):
                found.setdefault(base, []).append(owner.__name__)
    return found


def _annotated(owner: type, argument: str) -> list[type]:
    """Base classes in the annotation of an argument, also of one that is passed on to a parent class."""
    for kind in owner.__mro__:
        hints = get_type_hints(vars(kind)["__init__"]) if "__init__" in vars(kind) else {}
        if argument in hints:
            return [each for each in _classes(hints[argument]) if members(each)]
    return []


def _classes(annotation: Any) -> Iterator[type]:
    """All classes of this library in an annotation such as ``Sequence[Regularizer] | None``."""
    if inspect.isclass(annotation) and annotation.__module__.startswith("lightning_nas."):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def requested(args: Sequence[str]) -> tuple[list[str], str] | None:
    """The first option such as ``--model.space.help`` or ``--model.space.help DARTSSpace``.

    Args:
        args: The command line.

    Returns:
        Its path without ``init_args``, and the name of a class, empty for none; None if there is no such option.
    """
    for place, arg in enumerate(args):
        key, _, name = arg.partition("=")
        if re.fullmatch(r"--(model|data)(\.\w+)*\.help", key):
            following = args[place + 1] if place + 1 < len(args) else "-"
            path = [part for part in key[2:].split(".")[:-1] if part != "init_args"]
            return path, name or ("" if following.startswith("-") else following)
    return None


def print_help(args: Sequence[str]) -> bool:
    """Print the help that an option asks for, unless the parser prints it by itself.

    Args:
        args: The command line.

    Returns:
        Whether help was printed.

    Raises:
        ConfigError: The family does not have a member of that name.
    """
    asked = requested(args)
    if asked is None or (len(asked[0]) == 1 and asked[1]):
        return False
    path, name = asked
    option, found = f"--{'.'.join(path)}", families(path)
    if not found:
        return False
    if not name:
        for base, owners in found.items():
            of = f" of {', '.join(owners)}" if owners else ""
            print(f"{option}{of}: {first_line(base) if owners else 'one of these classes, or of your own.'}\n")
            for member in members(base):
                print(f"  {member.__name__:<24}  {first_line(member)}")
            print()
        print(f"The arguments of one: {option}.help NAME")
        return True
    kinds = {member.__name__: member for base in found for member in members(base)}
    if name not in kinds:
        raise ConfigError(f"{option} has no member {name!r}; it has {', '.join(kinds) or 'none'}.")
    print_arguments(kinds[name], f"{option} {name}")
    return True


def print_arguments(kind: type, called: str) -> None:
    """Print the arguments of a class, with types and meanings.

    Args:
        kind: The class.
        called: What the help calls it.

    Raises:
        ConfigError: The class takes what no configuration can hold.
    """
    parser = LightningArgumentParser(prog=called, description=first_line(kind))
    try:
        parser.add_class_arguments(kind)
    except ValueError as error:  # an argument of a type that no configuration can hold
        raise ConfigError(f"{called} cannot be made by a configuration: {' '.join(str(error).split())}") from None
    parser.print_help()


def show(name: str | None = None) -> None:
    """Print what ``lightning-nas components`` lists.

    Args:
        name: A family or a base class, for its classes with their arguments; another class, for its arguments with
            types and meanings. None for all families, without arguments.

    Raises:
        ConfigError: There is no such family or class.
    """
    packages = {package.__name__.rpartition(".")[2]: package for package in FAMILIES}
    public = {family: _public(package) for family, package in packages.items()}
    classes = {kind.__name__: kind for kinds in public.values() for kind in kinds}
    if name is None:
        for family, kinds in public.items():
            print(f"{family}: {(inspect.getdoc(packages[family]) or '').partition(chr(10))[0]}\n")
            _print_list(kinds, with_arguments=False)
        print(
            "'lightning-nas components FAMILY' lists the arguments as well, and 'lightning-nas components CLASS' "
            "describes those of one class."
        )
    elif name in public:
        _print_list(public[name], with_arguments=True)
    elif name not in classes:
        raise ConfigError(
            f"{name!r:.200} is neither a family nor a class. {suggestion(name, [*public, *classes])}".rstrip()
        )
    elif inspect.isabstract(classes[name]):
        print(f"{name}: {first_line(classes[name])}\n")
        _print_list(members(classes[name]), with_arguments=True)
    else:
        print_arguments(classes[name], name)


def _public(package: Any) -> list[type]:
    """The public classes of a package."""
    return [kind for kind in (getattr(package, name) for name in package.__all__) if inspect.isclass(kind)]


def _print_list(kinds: Sequence[type], with_arguments: bool) -> None:
    """Print classes with the first line of their documentation; bases are there for what derives from them."""
    for kind in kinds:
        if inspect.isabstract(kind):
            continue
        print(f"  {kind.__name__:<24}  {first_line(kind)}")
        given = ", ".join(name if value is None else f"{name}={value}" for name, value in arguments(kind).items())
        if with_arguments and given:
            print(textwrap.fill(given, _WIDTH, initial_indent=" " * 28, subsequent_indent=" " * 28))
    print()


def arguments(kind: type) -> dict[str, str | None]:
    """The arguments of a class, also those that it passes on to a parent class.

    Args:
        kind: The class.

    Returns:
        Their default values as text, None where a value must be given.
    """
    found: dict[str, str | None] = {}
    for each in kind.__mro__:
        if "__init__" not in vars(each):
            continue
        given = list(inspect.signature(vars(each)["__init__"]).parameters.values())[1:]
        for one in given:
            if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                found.setdefault(one.name, None if one.default is one.empty else _default(one.default))
        if not any(one.kind == one.VAR_KEYWORD for one in given):
            break
    return found


def _default(value: Any) -> str:
    """A default value as text: of an object, the name of its class."""
    plain = isinstance(value, bool | int | float | str | tuple | list | dict | None)
    return textwrap.shorten(repr(value), _LONGEST, placeholder=" …") if plain else type(value).__name__
