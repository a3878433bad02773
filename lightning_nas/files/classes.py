"""How artifacts name classes, and how those classes are found again."""

import contextlib
import importlib
import sys
from collections.abc import Sequence

from lightning_nas.errors import ConfigError, UnknownClassError

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


def find_class(class_path: str, base: type) -> type:
    """Look up a class that an artifact names.

    An artifact may come from anywhere, so nothing is imported for it except this library's own modules; a class of the
    user must be in a module that is already imported. A class of this library is also found under the name of a module
    that it has moved away from, such as ``lightning_nas.spaces.single_path_blocks.ShuffleBlock``, as long as its
    package exports it.

    Args:
        class_path: Full dotted path: the public one, or that of any module that has the class.
        base: The class that it must inherit from.

    Returns:
        The class.

    Raises:
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
    for place in places:
        found = getattr(sys.modules.get(place), name, None)
        if isinstance(found, type) and issubclass(found, base):
            return found
    raise UnknownClassError(
        f"{class_path!r:.200} is not an imported class that derives from {base.__name__}. If it is your own class, let "
        f"--imports (or the key imports of the configuration) name its module, {module_name!r:.200}, or import it in "
        "Python before you read the artifact; otherwise the file cannot be used."
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
