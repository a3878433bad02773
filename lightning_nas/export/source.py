"""The source of a class and of all that it needs, copied from the modules that define it.

Modules come in the order in which they import each other, and statements in the order of their module: what ran there
runs here.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lightning_nas.errors import ConfigError


class Import(NamedTuple):
    """One imported name: ``from module import name as alias``, or ``import module as alias`` with an empty name."""

    module: str
    name: str
    alias: str

    @property
    def bound(self) -> str:
        """The name that the import binds."""
        return self.alias or self.name or self.module.partition(".")[0]

    @property
    def key(self) -> str:
        """The name that only equal imports may share; ``import a.b`` and ``import a.c`` do not clash."""
        return self.alias or self.name or self.module

    @property
    def suffix(self) -> str:
        """The end of the import statement: `` as alias``, or nothing."""
        return f" as {self.alias}" if self.alias else ""


@dataclass
class Module:
    """The top level of a module.

    Attributes:
        name: Name of the module.
        lines: Lines of its source.
        statements: Statements by the names that they bind.
        ends: Last line of every statement, with the docstring below it, by the same names.
        external: Imports of torch and the standard library by the name that they bind.
        internal: Imports of other modules, whose source is copied, by the name that they bind.
    """

    name: str
    lines: list[str]
    statements: dict[str, ast.stmt] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    external: dict[str, list[Import]] = field(default_factory=dict)
    internal: dict[str, Import] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return the source of a statement with its decorators and the comment directly above it."""
        statement = self.statements[name]
        start = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
        while start > 1 and self.lines[start - 2].startswith("#"):
            start -= 1
        return "\n".join(self.lines[start - 1 : self.ends[name]])


def is_external(module: str) -> bool:
    """Whether a module belongs to torch or the standard library, so that an exported file may import it."""
    root = module.partition(".")[0]
    return root == "torch" or (root in sys.stdlib_module_names and root != "__main__")


def collect(
    roots: Sequence[tuple[str, str]], reserved: Sequence[str], used: Sequence[Import]
) -> tuple[list[str], list[Import]]:
    """Collect the source of classes and of everything that they need.

    Args:
        roots: Module and name of every class.
        reserved: Names that the file defines itself.
        used: Imports of the file itself.

    Returns:
        Source texts in an order that runs, and the imports that they need.

    Raises:
        ConfigError: The source needs something that cannot be copied, or one name would have two meanings.
    """
    modules: dict[str, Module] = {}
    needed: set[tuple[str, str]] = set()
    imports: set[Import] = set()
    waiting = list(roots)
    while waiting:
        place = waiting.pop()
        if place in needed:
            continue
        module = modules[place[0]] if place[0] in modules else modules.setdefault(place[0], _read(place[0]))
        if place[1] in module.internal:
            waiting.append(module.internal[place[1]][:2])
            continue
        if place[1] not in module.statements:
            raise ConfigError(f"{place[0]} cannot be exported: it does not define '{place[1]}' at its top level.")
        needed.add(place)
        names = {n.id for n in ast.walk(module.statements[place[1]]) if isinstance(n, ast.Name)}
        for name in names:
            imports.update(module.external.get(name, []))
        waiting += [(place[0], name) for name in names if name in module.statements or name in module.internal]
    _check_names(needed, {*imports, *used}, reserved)
    order: list[str] = []
    for name, _ in roots:
        order += [] if name in order else _import_order(name, modules, set(order))
    texts = []
    for name in order:
        last = None
        for bound, statement in modules[name].statements.items():
            # one statement may bind several names
            if (name, bound) in needed and statement is not last:
                texts.append(modules[name].text(bound))
                last = statement
    return texts, sorted(imports)


def _check_names(needed: set[tuple[str, str]], imports: set[Import], reserved: Sequence[str]) -> None:
    """Raise ``ConfigError`` if one name would have two meanings in the file."""
    owners = dict.fromkeys(reserved, "the export itself")
    imported = [(f"{entry.module} (imported)", entry.key) for entry in imports]
    for owner, name in [*imported, *sorted(needed)]:
        if name in owners:
            raise ConfigError(f"'{name}' of {owner} clashes with that of {owners[name]} in one file: rename one.")
        owners[name] = owner


def _import_order(module: str, modules: Mapping[str, Module], seen: set[str]) -> list[str]:
    """Order a module after all modules that it imports."""
    seen.add(module)
    order: list[str] = []
    for entry in modules[module].internal.values():
        if entry.module in modules and entry.module not in seen:
            order += _import_order(entry.module, modules, seen)
    return [*order, module]


# -- reading a module -------------------------------------------------------------------------------------------------


def _read(name: str) -> Module:
    """Parse a module.

    Raises:
        ConfigError: The module has no source, or contains an import or a statement that cannot be copied.
    """
    try:
        text = inspect.getsource(importlib.import_module(name))
    except (ImportError, OSError, TypeError) as error:
        raise ConfigError(
            f"{name} has no source to export ({error}). Import names from the modules that define them."
        ) from None
    module = Module(name, text.splitlines())
    previous: list[str] = []
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            nested = node not in tree.body
            for entry in _imports(node, name):
                if not _check_import(entry, name, nested=nested):
                    module.internal[entry.bound] = entry
                elif not nested:
                    module.external.setdefault(entry.bound, []).append(entry)
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            # the docstring of the module, or of the constant above it
            module.ends.update(dict.fromkeys(previous, node.end_lineno or node.lineno))
            continue
        previous = _bound(node)
        if not previous and not isinstance(node, (ast.Import, ast.ImportFrom)):
            raise ConfigError(
                f"{name} cannot be exported: line {node.lineno} is not an import, a class, a function or an assignment "
                "to names. Move what the network needs into a module without that line."
            )
        module.statements.update(dict.fromkeys(previous, node))
        module.ends.update(dict.fromkeys(previous, node.end_lineno or node.lineno))
    return module


def _imports(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[Import]:
    """Iterate over the names of an import statement, with relative imports resolved."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, "", alias.asname or "")
        return
    source = node.module or ""
    if node.level:
        source = importlib.util.resolve_name("." * node.level + source, module.rpartition(".")[0])
    for alias in node.names:
        yield Import(source, alias.name, alias.asname or "")


def _check_import(entry: Import, module: str, *, nested: bool) -> bool:
    """Check that an import can be exported.

    Returns:
        True for torch and the standard library, False for a module whose source is copied.

    Raises:
        ConfigError: It is neither.
    """
    if is_external(entry.module) and entry.name != "*":
        return True
    own = entry.module.partition(".")[0] in (module.partition(".")[0], __name__.partition(".")[0])
    if nested or not own or entry.name in ("", "*") or entry.alias not in ("", entry.name):
        statement = f"from {entry.module} import {entry.name}" if entry.name else f"import {entry.module}"
        raise ConfigError(
            f"{module} cannot be exported because of '{statement}{entry.suffix}'. A module may import torch, the "
            "standard library and, at its top level with 'from module import name', its own package and this library. "
            "Move what the network needs into a module without that import."
        )
    return False


def _bound(node: ast.stmt) -> list[str]:
    """List the names that a class, function or assignment binds."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]
