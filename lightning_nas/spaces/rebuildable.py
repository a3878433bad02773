"""Components that artifacts and exported files rebuild from their class and constructor arguments."""

import inspect
from collections.abc import Sequence
from typing import Any

from lightning_nas.errors import ConfigError
from lightning_nas.files.classes import class_path, find_class

PlainForm = Sequence[Any]
"""A component as artifacts store it: its class path, then its constructor arguments as ``(name, value)`` pairs."""


class Rebuildable:
    """Base class of components that are rebuilt from their constructor arguments.

    A subclass keeps each constructor argument as the attribute of the same name. For a component to be stored in an
    artifact, the arguments must be JSON values: numbers, text, booleans, null and lists of them. Two components are
    equal if their classes and arguments are equal.
    """

    def arguments(self) -> dict[str, Any]:
        """Return the constructor arguments by name.

        Raises:
            ConfigError: The component has no attribute of an argument's name.
        """
        return constructor_arguments(self)

    def __repr__(self) -> str:
        """Return source code that rebuilds the component."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.arguments().items())})"

    def __eq__(self, other: object) -> bool:
        """Whether another object has the same class and arguments."""
        return type(self) is type(other) and isinstance(other, Rebuildable) and self.arguments() == other.arguments()

    def __hash__(self) -> int:
        """Hash of the class and arguments."""
        return hash((type(self), repr(self)))


def constructor_arguments(component: Any) -> dict[str, Any]:
    """Return the constructor arguments of an object that keeps each of them as the attribute of the same name.

    Args:
        component: The object.

    Raises:
        ConfigError: It has no attribute of an argument's name.
    """
    names = list(inspect.signature(type(component)).parameters)
    missing = [name for name in names if not hasattr(component, name)]
    if missing:
        raise ConfigError(
            f"{type(component).__name__} has no attributes {missing}; it must keep each of its constructor arguments "
            f"{names} as the attribute of the same name. Set them in __init__."
        )
    return {name: getattr(component, name) for name in names}


def plain_arguments(component: Any) -> dict[str, Any]:
    """Return the constructor arguments of an object, which must be JSON values for artifacts to store them.

    Args:
        component: The object, which keeps each argument as the attribute of the same name.

    Raises:
        ConfigError: It has no attribute of an argument's name, or an argument is not a JSON value.
    """
    arguments = constructor_arguments(component)
    wrong = [name for name, value in arguments.items() if not _is_plain(value)]
    if wrong:
        raise ConfigError(
            f"The arguments {wrong} of {type(component).__name__} are {[arguments[name] for name in wrong]!s:.200}; "
            "artifacts store only numbers, text, booleans, null and lists of them. Use such values."
        )
    return arguments


def to_plain(component: Rebuildable) -> PlainForm:
    """Convert a component to the form in which artifacts store it.

    Args:
        component: The component.

    Raises:
        ConfigError: An argument is not a JSON value.
    """
    return [class_path(type(component)), sorted([name, value] for name, value in plain_arguments(component).items())]


def from_plain(plain: PlainForm, base: type[Any], argument: str) -> Any:
    """Rebuild a component from the form in which artifacts store it.

    Args:
        plain: See ``PlainForm``.
        base: Class that the component must inherit from.
        argument: Name of the argument that the component belongs to, for messages.

    Raises:
        ArtifactError: The class is not imported, or does not inherit from ``base``.
        ConfigError: The value has another form, or the class refuses the arguments.
    """
    try:
        kind, pairs = plain
        return find_class(kind, base)(**dict(pairs))
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{argument} contain {plain!r:.200}, which is not a valid {base.__name__} ({error}). Give objects of "
            f"subclasses of {base.__name__}."
        ) from None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
