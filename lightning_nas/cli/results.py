"""What a ``fit`` of a search says at its end: the found cell, its text, and the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_nas.files.artifacts import read_json
from lightning_nas.spaces.artifact import build_space, load_architecture
from lightning_nas.spaces.graph import Graph
from lightning_nas.terminal import INDENT

MOST_NODES = 12
"""Number of nodes up to which a cell is written out."""


def describe_outputs(outputs: Mapping[str, Sequence[Path]]) -> str:
    """Describe the files that a task has written.

    Args:
        outputs: Files by kind of artifact, as the tasks have them. What is in ``architecture.json`` is written out.

    Returns:
        Lines; an empty text where there are no files.
    """
    lines: list[str] = []
    for path in outputs.get("architecture", ())[:1]:
        lines += _found(path)
    return "\n".join([*lines, *(f"{INDENT}{path}" for paths in outputs.values() for path in paths)])


def _found(path: Path) -> list[str]:
    """Describe a found architecture: what it was scored with, its cells, and its text."""
    architecture = load_architecture(path)
    space = build_space(architecture.space)
    objectives = read_json(path, repair="Run the search again.")["provenance"].get("objectives", {})
    scores = "".join(f", {name} {value:.4g}" for name, value in objectives.items())
    lines = [f"{INDENT}found in {type(space).__name__}{scores}:"]
    for graph in space.graphs(architecture):
        lines += [f"{INDENT * 2}{line}" for line in cell_lines(graph)]
    return [*lines, f"{INDENT}{space.text(architecture)}"]


def cell_lines(graph: Graph) -> list[str]:
    """Write out what every node of a cell computes.

    Args:
        graph: The cell.

    Returns:
        A line with its name and one for every node; nothing where operations have no edges of their own, or where there
        are many nodes.
    """
    named = [(source, target, label) for source, target, label in graph.edges if label]
    if not named or len(graph.nodes) > MOST_NODES:
        return []
    terms: dict[int, list[str]] = {}
    for source, target, label in named:
        terms.setdefault(target, []).append(f"{label}({graph.nodes[source]})")
    width = max(len(graph.nodes[target]) for target in terms)
    title = graph.name if graph.name == "cell" else f"{graph.name} cell"
    return [title, *(f"  {graph.nodes[target]:<{width}} = {' + '.join(terms[target])}" for target in sorted(terms))]
