"""Names of classes in artifacts."""

import contextlib
import importlib
import sys

from lightning_nas.errors import ArtifactError


def class_path(kind: type) -> str:
    """The dotted path under which artifacts name a class.

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

    An artifact may come from anywhere, so nothing is imported for it but this library's own modules; a class of the
    user's must be in a module that is imported already.

    Args:
        class_path: Full dotted path.
        base: The class that it must inherit from.

    Raises:
        ArtifactError: There is no such class, or it is not a ``base``.
    """
    module_name, _, name = class_path.rpartition(".")
    parts = module_name.split(".")
    # modules are imported from the outermost to the innermost: a path of thousands must not be tried
    if parts[0] == "lightning_nas" and len(parts) < 10 and all(part.isidentifier() for part in parts):
        with contextlib.suppress(ImportError):
            importlib.import_module(module_name)
    found = getattr(sys.modules.get(module_name), name, None)
    if not isinstance(found, type) or not issubclass(found, base):
        raise ArtifactError(
            f"{class_path!r:.200} is no {base.__name__} that is imported. If it is a class of yours, import its module "
            "before reading the artifact (naming it in the configuration does); otherwise the file is not usable."
        )
    return found
