"""The NAS-Bench-101 space, against the published hashes, numbers of parameters and numbers of cells."""

import os
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError, DataError
from lightning_nas.export.network import export_network
from lightning_nas.metrics.cost import parameters
from lightning_nas.report.draw import draw_cell
from lightning_nas.spaces.artifact import architecture_from_dict
from lightning_nas.spaces.nasbench101.network import CELL_OPERATIONS, ConvBNReLU, vertex_channels
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.tables.nasbench101 import NASBench101Table

CONV3, CONV1, POOL = CELL_OPERATIONS
SPACE = NASBench101Space()
TEXT = f"{CONV3}(0) {POOL}(0,1) output(0,2)"
SMALL: dict[str, Any] = {"num_classes": 5, "image_shape": (3, 8, 8)}

# edges, operations, hash and parameters as published
PUBLISHED = [
    ("01", [], "043721b9c7fe8c5fad811d47d83132ec", 882570),
    ("01 12 03 23", [POOL, POOL], "0ee493fe7bb618a0ae642840558f62a0", 1756298),
    ("01 02 12 03 23 04 24 34", [CONV1, CONV1, CONV3], "4bc53bbc13ff1fadf969cf3f29fb1831", 5039754),
    ("01 12 03 23 24 34 35 45", [POOL, CONV1, CONV3, POOL], "7c2245c930a8244bd3b9a5a8ff511e83", 3468426),
    ("01 02 23 34 05 15 45 06 56", [CONV1, CONV3, POOL, CONV3, CONV3], "02e5a0247bbdcf2860b7e96f74961594", 32426634),
]
CELLS = {2: 1, 3: 6, 4: 84, 5: 2441, 6: 62010, 7: 359082}
"""Published numbers of cells by their vertices."""


def from_edges(edges: str, operations: list[str], size: int = 0) -> Architecture:
    size = size or len(operations) + 2
    pairs = edges.split()
    return SPACE.from_matrix([[int(f"{x}{y}" in pairs) for y in range(size)] for x in range(size)], operations)


def table() -> NASBench101Table:
    folder = os.environ.get("LIGHTNING_NAS_DATA")
    if not folder:
        pytest.skip("LIGHTNING_NAS_DATA is not set; it names the folder of nasbench101.npz")
    return NASBench101Table(str(Path(folder) / "nasbench101.npz"))


def drawn(known: NASBench101Table, count: int) -> list[int]:
    """Rows of a table, the same in every run."""
    rows: list[int] = torch.randint(len(known), (count,), generator=torch.Generator().manual_seed(0)).tolist()
    return rows


# Identity.


@pytest.mark.parametrize(("edges", "operations", "key", "count"), PUBLISHED)
def test_published_hashes_and_numbers_of_parameters(edges: str, operations: list[str], key: str, count: int) -> None:
    architecture = from_edges(edges, operations)
    assert SPACE.key(architecture) == key
    assert architecture_from_dict(architecture.to_dict()) == architecture
    with torch.device("meta"):
        assert parameters(SPACE.network(architecture, num_classes=10, image_shape=(3, 32, 32))) == count


@pytest.mark.data
def test_hashes_of_the_table() -> None:
    known = table()
    rows = drawn(known, 2000)
    assert known.named([SPACE.key(known.architecture(row)) for row in rows]).tolist() == rows


@pytest.mark.slow
@pytest.mark.data
def test_numbers_of_parameters_of_the_table() -> None:
    known = table()
    rows = drawn(known, 300)
    with torch.device("meta"):
        for row in rows:
            network = SPACE.network(known.architecture(row), num_classes=10, image_shape=(3, 32, 32))
            assert parameters(network) == known.column("params")[row]


def test_what_is_on_no_path_does_not_count() -> None:
    cell = from_edges("01 02 12 03 23", [CONV3, POOL])
    # vertex 3 is not read, vertex 4 reads nothing, and 3 reads 4 and all others: twelve edges
    other = from_edges("01 02 12 06 26 03 13 23 34 45 35 25", [CONV3, POOL, CONV1, CONV1, CONV3])
    assert cell != other
    assert SPACE.key(cell) == SPACE.key(other)
    assert SPACE.canonical(other) == SPACE.canonical(cell) == cell
    assert SPACE.text(other) == SPACE.text(cell) == TEXT
    assert SPACE.graphs(other) == SPACE.graphs(cell)
    (graph,) = SPACE.graphs(cell)
    assert graph.nodes == ("input", CONV3, POOL, "output")
    assert {(source, to) for source, to, _ in graph.edges} == {(0, 1), (0, 2), (1, 2), (0, 3), (2, 3)}
    assert draw_cell(graph).axes


def test_isomorphic_cells_share_all_that_identifies_them() -> None:
    cell = from_edges("01 02 13 24 35 45", [CONV3, POOL, POOL, CONV1])
    other = from_edges("01 02 14 23 35 45", [CONV3, POOL, CONV1, POOL])
    another = from_edges("01 02 14 23 35 45", [CONV3, POOL, POOL, CONV1])
    assert SPACE.key(cell) == SPACE.key(other) != SPACE.key(another)
    assert SPACE.canonical(cell) == SPACE.canonical(other) != SPACE.canonical(another)
    assert SPACE.text(cell) == SPACE.text(other) != SPACE.text(another)
    assert SPACE.key(SPACE.parse(SPACE.text(cell))) == SPACE.key(cell)


def test_every_cell_has_one_canonical_form() -> None:
    """All matrices and operations of up to five vertices: as many keys as published, one canonical form for each."""
    forms: dict[int, dict[str, set[Architecture]]] = {}
    fixed: Counter[int] = Counter()
    for size in (2, 3, 4, 5):
        pairs = [f"{x}{y}" for y in range(size) for x in range(y)]
        for bits in product((0, 1), repeat=len(pairs)):
            try:
                plain = from_edges(
                    " ".join(pair for pair, bit in zip(pairs, bits, strict=True) if bit), [POOL] * (size - 2)
                )
            except ArchitectureError:
                continue
            for operations in product(range(3), repeat=size - 2):
                choices = (*plain.choices[:21], *operations, *plain.choices[19 + size :])
                cell = SPACE.architecture(choices)
                vertices = len(SPACE.graphs(cell)[0].nodes)
                if vertices == size:
                    form = SPACE.canonical(cell)
                    forms.setdefault(size, {}).setdefault(SPACE.key(cell), set()).add(form)
                    fixed[size] += form == cell
    assert {size: len(found) for size, found in forms.items()} == {size: CELLS[size] for size in (2, 3, 4, 5)}
    assert all(len(found) == 1 for each in forms.values() for found in each.values())
    assert dict(fixed) == {size: CELLS[size] for size in (2, 3, 4, 5)}


# Choices and texts that are no cells.


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ([1] * 25, "25 choices; a cell has 21 edge bits and 5 operations"),
        ([], "0 choices"),
        ([2, *[1] * 20, *[0] * 5], "bits are 0 or 1"),
        ([-1, *[1] * 20, *[0] * 5], "bits are 0 or 1"),
        ([*[1] * 21, 0, 0, 3, 0, 0], "indices into"),
        ([*[1] * 21, *[0] * 5], "has 21 edges"),
        ([0] * 26, "no path"),
        ([1, *[0] * 25], "no path"),
    ],
)
def test_choices_that_are_no_cell_are_refused(choices: list[int], match: str) -> None:
    with pytest.raises(ArchitectureError, match=match):
        SPACE.architecture(choices)


def test_cells_of_other_spaces_are_refused() -> None:
    for act in (SPACE.key, SPACE.canonical, SPACE.text, SPACE.graphs, SPACE.check):
        with pytest.raises(ArchitectureError, match="expected"):
            act(NASBench201Space().largest())


@pytest.mark.parametrize(
    ("matrix", "operations"),
    [
        ([], []),
        ([[0]], []),
        ([[0] * 8] * 8, [POOL] * 6),
        ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], []),
        ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["maxpool5x5"]),
        ([[0, 1, 0], [0, 0, 1], [0, 0]], [POOL]),
        ([[0, 1, 0], [0, 0, 1], [1, 0, 0]], [POOL]),
        ([[0, 1, 0], [0, 1, 1], [0, 0, 0]], [POOL]),
        ([[0, 2, 0], [0, 0, 1], [0, 0, 0]], [POOL]),
    ],
)
def test_matrices_that_are_no_cell_are_refused(matrix: list[list[int]], operations: list[str]) -> None:
    with pytest.raises(ArchitectureError, match="expected"):
        SPACE.from_matrix(matrix, operations)


@pytest.mark.parametrize(
    "text",
    [
        *("", "none", "output", "output()", "input(0)", "output(0) output(1)"),
        *(TEXT[:-1], TEXT + f" {POOL}(0)", TEXT.replace(POOL, "maxpool5x5"), TEXT.replace("0,2", "0,3")),
        *(TEXT.replace("0,2", "0,2,"), TEXT.replace("(0)", "(-1)"), TEXT.replace("(0)", "(\u0660)")),
        " ".join([f"{POOL}(0)"] * 6 + ["output(6)"]),
    ],
)
def test_text_that_is_no_cell_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError, match=r"NAS-Bench-101|expected 2 to 7 rows"):
        SPACE.parse(text)


# Samples and neighbours.


def test_samples_are_uniform_over_networks() -> None:
    """Each number of vertices and of edges is as frequent as the cells that have it."""
    generator = torch.Generator().manual_seed(0)
    count = 1500
    found: Counter[tuple[str, int]] = Counter()
    for _ in range(count):
        (graph,) = SPACE.graphs(SPACE.sample(generator))
        found.update([("vertices", len(graph.nodes)), ("edges", len(graph.edges))])
    edges = {9: 328269, 8: 78822, 7: 13984, 6: 2134}
    for kind, published in (("vertices", CELLS), ("edges", edges)):
        for value, cells in published.items():
            share = cells / sum(CELLS.values())
            # five standard deviations of a binomial count; one where hardly any is expected
            assert abs(found[kind, value] - count * share) <= 5 * (count * share * (1 - share)) ** 0.5 + 1, (
                kind,
                value,
            )


@pytest.mark.data
def test_samples_have_the_tables_distribution() -> None:
    """Numbers of parameters, which differ much between cells that few and that many matrices stand for."""
    known = table()
    generator = torch.Generator().manual_seed(1)
    samples = [SPACE.sample(generator) for _ in range(1000)]
    for name in ("params", "test_acc_108"):
        values = torch.tensor(known.column(name).astype(float))
        mean = torch.tensor(known.lookup_many(samples, name)).mean()
        assert abs(mean - values.mean()) < 5 * values.std() / 1000**0.5


def edits(architecture: Architecture) -> set[str]:
    """Keys of all that one flipped bit or changed operation leads to, by trying."""
    found = set()
    for i in range(26):
        for value in range(3):
            choices = (*architecture.choices[:i], value, *architecture.choices[i + 1 :])
            try:
                found.add(SPACE.key(SPACE.architecture(choices)))
            except ArchitectureError:
                continue
    return found - {SPACE.key(architecture)}


def test_neighbours_are_one_edit_away() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = 0
    while seen < 10:
        architecture = SPACE.sample(generator)
        if len(SPACE.graphs(architecture)[0].nodes) == 7:
            near = list(SPACE.neighbours(architecture))
            assert len({SPACE.key(a) for a in near}) == len(near)
            assert {SPACE.key(a) for a in near} == edits(architecture)
            for each in near:
                assert SPACE.key(architecture) in {SPACE.key(a) for a in SPACE.neighbours(each)}
            seen += 1
    assert SPACE.mutate(architecture, generator) in near
    assert len(SPACE.num_values) == len(architecture.choices)
    assert all(choice < size for choice, size in zip(architecture.choices, SPACE.num_values, strict=True))


def test_small_cells_get_vertices() -> None:
    texts = {SPACE.text(a) for a in SPACE.neighbours(SPACE.parse("output(0)"))}
    assert texts == {f"{name}(0) output(0,1)" for name in CELL_OPERATIONS}
    cell = from_edges("01 12 02", [POOL])
    found = {SPACE.text(a) for a in SPACE.neighbours(cell)}
    changed = {"output(0)", f"{POOL}(0) output(1)", *(f"{name}(0) output(0,1)" for name in (CONV3, CONV1))}
    between = {SPACE.text(from_edges(edges, [POOL, name])) for name in CELL_OPERATIONS for edges in ("01 12 13 03 23",)}
    before = {SPACE.text(from_edges("01 12 02 23 03", [name, POOL])) for name in CELL_OPERATIONS}
    beside = {SPACE.text(from_edges("01 02 13 03 23", [POOL, name])) for name in CELL_OPERATIONS}
    assert found == changed | between | before | beside
    # a vertex that an edit left without a way out comes back by the opposite one
    dead = from_edges("01 12 13 03", [POOL, CONV1])
    assert SPACE.key(dead) == SPACE.key(cell)
    assert SPACE.text(from_edges("01 12 13 03 23", [POOL, CONV1])) in {SPACE.text(a) for a in SPACE.neighbours(dead)}


# The network.


def test_the_largest_cell() -> None:
    largest = SPACE.largest()
    with torch.device("meta"):
        options: dict[str, Any] = {"num_classes": 10, "image_shape": (3, 32, 32)}
        count = parameters(SPACE.network(largest, **options))
        assert count == 49979274  # the published maximum
        assert all(parameters(SPACE.network(a, **options)) <= count for a in SPACE.neighbours(largest))


@pytest.mark.data
def test_the_largest_cell_is_the_tables() -> None:
    known = table()
    assert known.lookup(SPACE.largest(), "params") == known.column("params").max()


def test_channels_of_vertices() -> None:
    # 1 and 2 and 4 share eight channels; 3 is read by 4, which has the fewest
    assert vertex_channels([[0], [0], [1], [2, 3], [0, 1, 2, 4]], 8) == [3, 3, 2, 2, 8]
    assert vertex_channels([[0], [1], [2]], 8) == [8, 8, 8]
    assert vertex_channels([[0]], 8) == [8]


class Reference(nn.Module):
    """The cell 1 = conv3(0), 2 = pool(0 + 1), 3 = conv1(1 + 2), output = [1, 3] + 0, written out for four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.to_1, self.to_2, self.to_output = ConvBNReLU(3, 2, 1), ConvBNReLU(3, 2, 1), ConvBNReLU(3, 4, 1)
        self.conv_1, self.conv_3 = ConvBNReLU(2, 2, 3), ConvBNReLU(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.conv_1(self.to_1(x))
        two = nn.functional.max_pool2d(one + self.to_2(x), 3, 1, 1)
        return torch.cat([one, self.conv_3(one + two)], 1) + self.to_output(x)


def test_a_cell_is_the_function_that_its_graph_says() -> None:
    architecture = from_edges("01 02 12 13 23 14 34 04", [CONV3, POOL, CONV1])
    network = SPACE.network(architecture, num_classes=5, image_shape=(3, 8, 8), channels=4, cells=1)
    cell = type(network.stacks[0][0])(network.arguments["inputs"], network.arguments["operations"], 3, 4).double()
    plain = Reference().double()
    places = {"to_1": "projections.0.0", "to_2": "projections.1.0", "to_output": "projections.3.0"}
    places |= {"conv_1": "operations.0", "conv_3": "operations.2"}
    state = {}
    for name, value in plain.state_dict().items():
        head, _, rest = name.partition(".")
        state[f"{places[head]}.{rest}"] = value
    cell.load_state_dict(state)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(cell(x), plain(x), rtol=1e-12, atol=1e-12)


def test_wide_vertices_are_truncated() -> None:
    # 1, 2 and 3 share seven channels as 3, 2 and 2; 2 reads the first two of 1
    network = SPACE.network(
        from_edges("01 12 03 14 24 34", [CONV3, CONV1, POOL]), num_classes=5, image_shape=(3, 8, 8), channels=7, cells=1
    )
    cell = network.stacks[0][0]
    assert cell.widths == [3, 2, 2, 7]
    x = torch.randn(2, 7, 4, 4)
    cell.eval()
    with torch.no_grad():
        one = cell.operations[0](cell.projections[0][0](x))
        expected = [one, cell.operations[1](one[:, :2]), cell.operations[2](cell.projections[2][0](x))]
        torch.testing.assert_close(cell(x), torch.cat(expected, 1))


def test_batch_norm_has_the_published_constants() -> None:
    network = SPACE.network(SPACE.largest(), **SMALL, channels=4, cells=1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 1 + 3 * 9
    assert {(norm.eps, round(1 - norm.momentum, 6)) for norm in norms if norm.momentum} == {(1e-5, 0.997)}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 9), (2, 4, 7)])
def test_any_size_and_channel_count_passes(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, *shape)
    for text in ("output(0)", TEXT, f"{CONV1}(0) {CONV1}(0) {POOL}(0) {POOL}(0) output(1,2,3,4)"):
        network = SPACE.network(SPACE.parse(text), num_classes=5, image_shape=shape, channels=4, cells=2)
        assert network(x).shape == (2, 5)


def test_what_the_skeleton_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="auxiliary"):
        SPACE.network(SPACE.largest(), **SMALL, auxiliary=True)
    with pytest.raises(DataError, match="at least 4x4"):
        SPACE.network(SPACE.largest(), num_classes=5, image_shape=(3, 3, 8))
    wide = SPACE.parse(f"{CONV1}(0) {CONV1}(0) {POOL}(0) output(1,2,3)")
    with pytest.raises(ConfigError, match="concatenates 3 vertices"):
        SPACE.network(wide, **SMALL, channels=2)
    with pytest.raises(ArchitectureError, match="expected"):
        SPACE.network(NASBench201Space().largest(), **SMALL)


@pytest.mark.parametrize("text", [TEXT, f"{CONV3}(0) {CONV1}(0) {POOL}(1,2) output(0,1,3)"])
def test_the_network_is_exported(tmp_path: Path, text: str) -> None:
    network = SPACE.network(SPACE.parse(text), **SMALL, channels=5, cells=1)
    names = [str(i) for i in range(5)]
    exported = export_network(
        network, tmp_path, image_shape=(3, 8, 8), class_names=names, mean=[0.5] * 3, std=[0.2] * 3, header=text
    )
    assert exported.difference <= 1e-6
