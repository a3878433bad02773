"""Help for components: which members a family has, and which arguments one of them takes."""

import inspect
import re
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
from lightning_nas.errors import ConfigError

FAMILIES = (
    *(tasks, data, spaces, differentiable, distill, supernets, baselines),
    *(evaluation, predictors, strategies, tables, callbacks),
)
"""Packages whose public classes configurations name without a module, which works for what is imported."""

BASES = {"model": LightningModule, "data": LightningDataModule}
"""Base class of what the command line calls so."""


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
    parser = LightningArgumentParser(prog=f"{option} {name}", description=first_line(kinds[name]))
    parser.add_class_arguments(kinds[name])
    parser.print_help()
    return True
