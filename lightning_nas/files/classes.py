"""How artifacts name classes, and how those classes are found again."""

import contextlib
import importlib
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from lightning_nas.errors import ConfigError, UnknownClassError

GROUP = "lightning_nas"
"""Group of the entry points by which installed packages name modules with classes of their own."""

_MOST_PARTS = 10


def class_path(kind: type) -> str:
    """Return the dotted path under which artifacts name a class.

    A class of this library is named by the outermost package that exports it, such as
    ``lightning_nas.spaces.DARTSSpace``, so that artifacts stay readable when a module inside a package moves.

    Args:
        kind: The class.

    Returns:
        The path, which ``find_class`` resolves.
    """
    parts = kind.__module__.split(".")
    if parts[0] == "lightning_nas":
        for length in range(2, len(parts)):
            package = ".".join(parts[:length])
            if getattr(sys.modules.get(package), kind.__qualname__, None) is kind:
                return f"{package}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def imported_class(class_path: str) -> type | None:
    """Look up a class by its dotted path among the modules that are already imported; None if there is none.

    Args:
        class_path: Any text.
    """
    module_name, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module_name), name, None)
    return found if isinstance(found, type) else None


def find_class(class_path: str, base: type) -> type:
    """Look up a class that an artifact names.

    An artifact may come from anywhere, so nothing is imported because it says so, except this library's own modules. A
    class of the user must be in a module that is already imported, or that an installed package names as an entry point
    of the group ``lightning_nas``. A class of this library is also found under the name of a module that it has moved
    away from, such as ``lightning_nas.spaces.single_path_blocks.ShuffleBlock``, as long as its package exports it.

    Args:
        class_path: Full dotted path: the public one, or that of any module that has the class.
        base: The class that it must inherit from.

    Returns:
        The class.

    Raises:
        ConfigError: A module that an installed package names cannot be imported.
        UnknownClassError: There is no such class, or it does not inherit from ``base``.
    """
    module_name, _, name = class_path.rpartition(".")
    parts = module_name.split(".")
    places = [module_name]
    # a path of thousands of parts must not be tried: modules are imported one by one, the outermost first
    if parts[0] == "lightning_nas" and len(parts) < _MOST_PARTS and all(part.isidentifier() for part in parts):
        places.append(".".join(parts[:2]))
        for place in places:
            with contextlib.suppress(ImportError):
                importlib.import_module(place)
    for import_more in (None, import_plugins):
        if import_more is not None:
            import_more()
        for place in places:
            found = imported_class(f"{place}.{name}")
            if found is not None and issubclass(found, base):
                return found
    raise UnknownClassError(
        f"{class_path!r:.200} is not an imported class that derives from {base.__name__}. {_repair(module_name, base)}"
    )


def _repair(module: str, base: type) -> str:
    """How to make a class known that an artifact names."""
    if module in sys.modules:
        return (
            f"Its module {module!r:.200} is imported, but has no such {base.__name__}. Correct the name, or use the "
            "version of the module that the file was written with."
        )
    named = f"its module, {module!r:.200}" if module else "the module that it is in"
    return (
        f"If it is your own class, name {named}: lightning-nas COMMAND --import {module or 'MODULE':.200}, the key "
        "imports of a configuration, or an import in Python before the file is read. Otherwise the file cannot be used."
    )


def import_modules(names: str | Sequence[str]) -> None:
    """Import the modules of the user's own classes, so that artifacts which name these classes can be read.

    Args:
        names: Dotted name of a module, or several.

    Raises:
        ConfigError: A module cannot be imported.
    """
    for name in [names] if isinstance(names, str) else names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a module runs code of its own, which can raise anything
            raise ConfigError(
                f"imports names the module {name!r}, which cannot be imported ({type(error).__name__}: {error}). "
                "Modules are looked for among the installed packages and in the working directory."
            ) from error


@cache
def import_plugins() -> None:
    """Import the modules that installed packages name as entry points of the group ``lightning_nas``, once.

    Raises:
        ConfigError: A module cannot be imported.

    Example:
        ```toml
        [project.entry-points.lightning_nas]  # in the pyproject.toml of a package
        spaces = "mypackage.spaces"
        ```
    """
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.value, point.name)):
        try:
            point.load()
        except Exception as error:
            raise ConfigError(
                f"{_owner(point)} names {point.value!r:.200} as an entry point of the group {GROUP!r}, which cannot be "
                f"imported ({type(error).__name__}: {error}). Repair or uninstall the package."
            ) from error


def _owner(point: EntryPoint) -> str:
    """The package that has an entry point."""
    return "An installed package" if point.dist is None else f"The package {point.dist.name}"
