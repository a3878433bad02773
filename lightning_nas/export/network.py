"""The found network as files for programs without this library, first of all one plain .py that needs only torch.

That file is made from the real source of the network's class: what the class needs is copied from the modules
that define it, in their order. So the exported code is the code that was trained, and a check proves it.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_nas.errors import ConfigError, ExportError
from lightning_nas.export.formats import (
    Description,
    Exportable,
    Exported,
    Format,
    ONNXModel,
    TorchProgram,
    write_checked,
)

COLUMNS = 120

_OWN_NAMES = ("network", "IMAGE_SHAPE", "CLASSES", "MEAN", "STD")
"""What the written file defines beside the copied source."""


class PlainFile(Format):
    """``network.py``: the source of the network's class in one file that needs only torch; weights in ``network.pt``.

    The class must be plain: its module imports only torch, the standard library and plain modules of its own package or
    of this library. So must be the classes of objects among its arguments, and ``repr`` of these be source.
    """

    file_name = "network.py"
    needs = "only torch, and network.pt beside it"
    usage = """import torch

from network import CLASSES, IMAGE_SHAPE, MEAN, STD, network

images = torch.rand(2, *IMAGE_SHAPE)  # in place of yours, with values in [0, 1]
scaled = (images - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
with torch.no_grad():
    logits = network()(scaled)
names = [CLASSES[i] for i in logits.argmax(dim=1).tolist()]
print(names)"""

    def write(self, source: Exportable, folder: Path) -> list[Path]:
        """See ``Format``."""
        weights, path = folder / "network.pt", folder / self.file_name
        path.write_text(_render(source), encoding="utf-8")
        torch.save({name: value.clone() for name, value in source.network.state_dict().items()}, weights)
        return [weights, path]

    def run(self, path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
        """Import the file into a namespace of its own; see ``Format``."""
        spec = importlib.util.spec_from_file_location("_exported_network", path)
        if spec is None or spec.loader is None:
            raise ExportError(f"{path} cannot be imported.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        network = module.network()
        return [network(batch) for batch in batches]


FORMATS: tuple[Format, ...] = (PlainFile(), TorchProgram(), ONNXModel())
"""All formats that ``lightning-nas export`` writes."""


def export_files(
    network: nn.Module, folder: str | Path, description: Description, formats: Sequence[Format]
) -> list[Exported]:
    """Write a network in some formats and check that each file does what the network does.

    The weights of an auxiliary head are left out. The network, its device and the random numbers stay as they are.

    Args:
        network: ``network.arguments`` holds its constructor arguments.
        folder: Where to write.
        description: What the files tell of the network.
        formats: Of the files.

    Raises:
        ConfigError: The network cannot be built again, or the description does not fit it.
        ExportError: A file cannot be written or run, or its outputs differ from the network's.
        MissingDependencyError: A format's packages are not installed.
    """
    return write_checked(network, Exportable(_plain(network), description), folder, formats)


def export_network(
    network: nn.Module,
    folder: str | Path,
    *,
    image_shape: Sequence[int],
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    header: str,
) -> Exported:
    """Write ``network.py`` and ``network.pt``: ``export_files`` with ``PlainFile`` alone.

    Args:
        network: See ``export_files``; its class must be plain, see ``PlainFile``.
        folder: Where to write.
        image_shape: See ``Description``, as all below.
        class_names: A name an output.
        mean: Of every channel.
        std: Of every channel.
        header: Text for the file's docstring: how the network was found, how good it is.
    """
    description = Description(tuple(image_shape), tuple(class_names), tuple(mean), tuple(std), header)
    return export_files(network, folder, description, [PlainFile()])[0]


def _plain(network: nn.Module) -> nn.Module:
    """The same network anew: without auxiliary head, float32, on the CPU, in eval mode."""
    arguments = getattr(network, "arguments", None)
    if not isinstance(arguments, dict) or _external(type(network).__module__):
        raise ConfigError(
            f"{type(network).__module__}.{type(network).__name__} cannot be exported: it must be no class of "
            "torch, and have an attribute 'arguments', a dictionary of its constructor arguments."
        )
    arguments = {**arguments, **({"auxiliary": False} if "auxiliary" in arguments else {})}
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        plain: nn.Module = type(network)(**arguments)
    state = network.state_dict()
    missing = [name for name in plain.state_dict() if name not in state]
    if missing:
        raise ExportError(f"The network has no weights {missing[:3]}: it is not the one of its 'arguments'.")
    try:
        plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    except RuntimeError as error:
        raise ExportError(f"The network is not the one of its 'arguments': {error}.") from None
    return plain.float().eval().requires_grad_(False)


# Source: what a class needs, from the modules that define it.


class _Import(NamedTuple):
    """One imported name: ``from module import name as alias``; ``import module as alias`` without name."""

    module: str
    name: str
    alias: str

    @property
    def bound(self) -> str:
        """The name that the import binds."""
        return self.alias or self.name or self.module.partition(".")[0]

    @property
    def key(self) -> str:
        """What two imports may share only if they are equal; ``import a.b`` and ``import a.c`` agree."""
        return self.alias or self.name or self.module


_OWN_IMPORTS = (_Import("pathlib", "Path", ""), _Import("torch", "", ""), _Import("torch", "nn", ""))


@dataclass
class _Source:
    """Top level of a plain module: its lines, statements and imports by the name that they bind."""

    name: str
    lines: list[str]
    statements: dict[str, ast.stmt] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    external: dict[str, list[_Import]] = field(default_factory=dict)
    internal: dict[str, _Import] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Source of a statement with its decorators and the comment directly above it."""
        statement = self.statements[name]
        start = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
        while start > 1 and self.lines[start - 2].startswith("#"):
            start -= 1
        return "\n".join(self.lines[start - 1 : self.ends[name]])


def _external(module: str) -> bool:
    root = module.partition(".")[0]
    return root == "torch" or (root in sys.stdlib_module_names and root != "__main__")


def _imports(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[_Import]:
    """The names of an import statement; relative ones are resolved."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield _Import(alias.name, "", alias.asname or "")
        return
    source = node.module or ""
    if node.level:
        source = importlib.util.resolve_name("." * node.level + source, module.rpartition(".")[0])
    for alias in node.names:
        yield _Import(source, alias.name, alias.asname or "")


def _check_import(entry: _Import, module: str, *, nested: bool) -> bool:
    """Whether an import is of torch or the standard library; else it is of the own package, or an error."""
    if _external(entry.module) and entry.name != "*":
        return True
    own = entry.module.partition(".")[0] in (module.partition(".")[0], __name__.partition(".")[0])
    if nested or not own or entry.name in ("", "*") or entry.alias not in ("", entry.name):
        statement = f"from {entry.module} import {entry.name}" if entry.name else f"import {entry.module}"
        raise ConfigError(
            f"{module} cannot be exported because of '{statement}{_alias(entry)}': only torch, the standard "
            "library and, at the top of the module, 'from module import name' of its own package or of this library "
            "may go. Move what the network needs into a module without that import."
        )
    return False


def _read(module: str) -> _Source:
    """Parse a module.

    Raises:
        ConfigError: It has no source, an import that cannot go with it, or a statement that cannot be copied.
    """
    try:
        text = inspect.getsource(importlib.import_module(module))
    except (ImportError, OSError, TypeError) as error:
        raise ConfigError(
            f"{module} has no source to export ({error}). Import names from where they are defined."
        ) from None
    source = _Source(module, text.splitlines())
    previous: list[str] = []
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            nested = node not in tree.body
            for entry in _imports(node, module):
                if not _check_import(entry, module, nested=nested):
                    source.internal[entry.bound] = entry
                elif not nested:
                    source.external.setdefault(entry.bound, []).append(entry)
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            # the docstring of the module, or of the constant above it
            source.ends.update(dict.fromkeys(previous, node.end_lineno or node.lineno))
            continue
        previous = _bound(node)
        if not previous and not isinstance(node, (ast.Import, ast.ImportFrom)):
            raise ConfigError(
                f"{module} cannot be exported: line {node.lineno} is neither an import nor a class, function "
                "or assignment to names. Move what the network needs into a module without it."
            )
        source.statements.update(dict.fromkeys(previous, node))
        source.ends.update(dict.fromkeys(previous, node.end_lineno or node.lineno))
    return source


def _bound(node: ast.stmt) -> list[str]:
    """Names that a top-level class, function or assignment binds."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _classes(value: Any) -> set[tuple[str, str]]:
    """Module and name of the classes of the objects in an argument, other than those of Python itself."""
    if isinstance(value, (list, tuple, dict)):
        return {place for each in (value.values() if isinstance(value, dict) else value) for place in _classes(each)}
    kind = type(value)
    return set() if kind.__module__ == "builtins" else {(kind.__module__, kind.__qualname__)}


def _collect(roots: Sequence[tuple[str, str]]) -> tuple[list[str], list[_Import]]:
    """Source texts of all that some classes need, in an order that runs, and the imports that they need.

    Modules come in the order in which they import each other, statements in the order of their module: what
    ran there runs here.
    """
    sources: dict[str, _Source] = {}
    needed: set[tuple[str, str]] = set()
    imports: set[_Import] = set()
    waiting = list(roots)
    while waiting:
        place = waiting.pop()
        if place in needed:
            continue
        source = sources[place[0]] if place[0] in sources else sources.setdefault(place[0], _read(place[0]))
        if place[1] in source.internal:
            waiting.append(source.internal[place[1]][:2])
            continue
        if place[1] not in source.statements:
            raise ConfigError(f"{place[0]} cannot be exported: it defines no '{place[1]}' at its top level.")
        needed.add(place)
        used = {n.id for n in ast.walk(source.statements[place[1]]) if isinstance(n, ast.Name)}
        for each in used:
            imports.update(source.external.get(each, []))
        waiting += [(place[0], each) for each in used if each in source.statements or each in source.internal]
    _check_names(needed, imports)
    texts = []
    order: list[str] = []
    for module, _ in roots:
        order += [] if module in order else _import_order(module, sources, set(order))
    for each in order:
        last = None
        for bound, statement in sources[each].statements.items():
            # one statement may bind several names
            if (each, bound) in needed and statement is not last:
                texts.append(sources[each].text(bound))
                last = statement
    return texts, sorted(imports)


def _check_names(needed: set[tuple[str, str]], imports: set[_Import]) -> None:
    """Raise where one name would mean two things in the single file."""
    owners = dict.fromkeys(_OWN_NAMES, "the export itself")
    imported = [(f"{entry.module} (imported)", entry.key) for entry in {*imports, *_OWN_IMPORTS}]
    for owner, name in [*imported, *sorted(needed)]:
        if name in owners:
            raise ConfigError(f"'{name}' of {owner} and of {owners[name]} clash in one file: rename one.")
        owners[name] = owner


def _import_order(module: str, sources: Mapping[str, _Source], seen: set[str] | None = None) -> list[str]:
    """The module after all that it imports."""
    seen = set() if seen is None else seen
    seen.add(module)
    order: list[str] = []
    for entry in sources[module].internal.values():
        if entry.module in sources and entry.module not in seen:
            order += _import_order(entry.module, sources, seen)
    return [*order, module]


# Text of the file.


def _render(source: Exportable) -> str:
    """The whole of ``network.py``."""
    network, description = type(source.network), source.description
    constants = {
        "IMAGE_SHAPE": tuple(int(n) for n in description.image_shape),
        "CLASSES": tuple(str(name) for name in description.class_names),
        "MEAN": tuple(float(m) for m in description.mean),
        "STD": tuple(float(s) for s in description.std),
    }
    arguments: dict[str, Any] = source.network.arguments  # type: ignore[assignment]  # a dictionary
    roots = [*sorted(_classes(arguments)), (network.__module__, network.__name__)]
    texts, imports = _collect(roots)
    values = "\n".join(f"{name} = {_literal(value, len(name) + 3)}" for name, value in constants.items())
    lines = [f"        {name}={_literal(value, 10 + len(name), 8)}," for name, value in arguments.items()]
    builder = _BUILDER.format(name=network.__name__, arguments="\n".join(lines))
    top = "\n\n".join([_docstring(description.header), _import_block({*imports, *_OWN_IMPORTS}), values])
    return "\n\n\n".join([top, *texts, builder, _MAIN]) + "\n"


_HOWTO = """A network found by lightning_nas, in one file that needs only torch.

Its weights are in network.pt beside this file. For images (batch, channels, height, width) in [0, 1]:

    from network import CLASSES, MEAN, STD, network
    scaled = (images - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    names = [CLASSES[i] for i in network()(scaled).argmax(dim=1).tolist()]
"""

_BUILDER = '''def network(pretrained: bool = True) -> nn.Module:
    """Build the network in eval mode; ``pretrained`` loads the weights from network.pt beside this file."""
    model = {name}(
{arguments}
    )
    if pretrained:
        weights = torch.load(Path(__file__).with_name("network.pt"), map_location="cpu", weights_only=True)
        model.load_state_dict(weights)
    return model.eval()'''

_MAIN = """if __name__ == "__main__":
    with torch.no_grad():
        print(tuple(network()(torch.zeros(1, *IMAGE_SHAPE)).shape))"""


def _docstring(header: str) -> str:
    """The module's docstring; whatever the header holds stays text."""
    lines = [part for line in header.strip().splitlines() for part in textwrap.wrap(line, 100) or [""]]
    text = "\n".join([_HOWTO, *lines]) if lines else _HOWTO.rstrip()
    return '"""' + text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"').rstrip() + '\n"""'


def _import_block(imports: set[_Import]) -> str:
    """Merged imports: the standard library, then torch; whole modules before names."""
    groups: list[str] = []
    for of_torch in (False, True):
        mine = sorted(e for e in imports if (e.module.partition(".")[0] == "torch") == of_torch)
        lines = [f"import {e.module}" + _alias(e) for e in mine if not e.name]
        names: dict[str, list[str]] = {}
        # the order that linters expect: constants, classes, functions
        for entry in sorted(mine, key=lambda e: (not e.name.isupper(), not e.name[:1].isupper())):
            if entry.name:
                names.setdefault(entry.module, []).append(entry.name + _alias(entry))
        for module, each in sorted(names.items()):
            line = f"from {module} import {', '.join(each)}"
            fits = len(line) <= COLUMNS
            lines.append(line if fits else f"from {module} import (\n    " + ",\n    ".join(each) + ",\n)")
        groups.append("\n".join(lines))
    return "\n\n".join(groups)


def _alias(entry: _Import) -> str:
    return f" as {entry.alias}" if entry.alias else ""


def _literal(value: Any, before: int, indent: int = 0) -> str:
    """Source of a JSON-like value, over several lines where it does not fit behind ``before`` columns."""
    if isinstance(value, str):
        quoted = repr(value)
        return f'"{quoted[1:-1]}"' if quoted[0] == "'" and '"' not in quoted else quoted
    if not isinstance(value, (list, tuple, dict)):
        return repr(value)
    opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    keys = [""] * len(value)
    if isinstance(value, dict):
        opening, closing = "{", "}"
        keys = [f"{_literal(key, -sys.maxsize)}: " for key in value]
        value = list(value.values())
    pairs = list(zip(keys, value, strict=True))
    short = ", ".join(key + _literal(item, -sys.maxsize) for key, item in pairs)
    comma = "," if opening == "(" and len(pairs) == 1 else ""
    if before + len(short) + 4 <= COLUMNS or not pairs:
        return f"{opening}{short}{comma}{closing}"
    inner = indent + 4
    lines = [f"{' ' * inner}{key}{_literal(item, inner + len(key), inner)}," for key, item in pairs]
    return "\n".join([opening, *lines, " " * indent + closing])
