"""What all spaces of cells have in common."""

from collections.abc import Iterator

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArchitectureError, ConfigError
from lightning_nas.spaces import DARTSSpace, NASBench201Space
from lightning_nas.spaces.cell_space import CellSpace
from tests.spaces.own_space import PyramidSpace


def test_the_fewest_cells_have_every_cell_type_and_draw_no_random_numbers() -> None:
    before = torch.get_rng_state()
    assert [space.least_cells for space in (NASBench201Space(), PyramidSpace(), DARTSSpace())] == [1, 2, 3]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cell_type_without_a_place_is_refused() -> None:
    class Odd(PyramidSpace):
        cell_types = ("flat", "deep", "odd")

    with pytest.raises(ConfigError, match=r"lacks some of the cell types \['flat', 'deep', 'odd'\]"):
        _ = Odd().least_cells


def some_spaces() -> list[CellSpace]:
    """Spaces of all kinds: with and without chosen sources, of several sizes, and restricted ones."""
    spaces: list[CellSpace] = [NASBench201Space(), DARTSSpace(), DARTSSpace(nodes=7), PyramidSpace()]
    generator = torch.Generator().manual_seed(3)
    for space in (NASBench201Space(), DARTSSpace()):
        masks = {name: torch.rand(mask.shape, generator=generator) < 0.6 for name, mask in space.allowed.items()}
        for mask in masks.values():
            mask[:, 3] = True
        spaces.append(space.restrict(masks))
    return spaces


def plain_neighbours(space: CellSpace, architecture: Architecture) -> Iterator[Architecture]:
    """Every other value of every choice in turn, as far as it is an architecture."""
    choices = architecture.choices
    for place, count in enumerate(space.num_values):
        for value in range(count):
            near = Architecture(space.spec(), (*choices[:place], value, *choices[place + 1 :]))
            try:
                space.check(near)
            except ArchitectureError:
                continue
            if value != choices[place]:
                yield near


def plainly_valid(space: CellSpace, architecture: Architecture) -> bool:
    """Whether all edges of all nodes have different sources and allowed operations, by the masks."""
    choices = iter(architecture.choices)
    for name in space.cell_types:
        for edges in space.nodes:
            count = edges.stop - edges.start
            kept = count if space.inputs_kept is None else min(count, space.inputs_kept)
            pairs = [(i if space.inputs_kept is None else next(choices), next(choices)) for i in range(kept)]
            if len({source for source, _ in pairs}) < kept or any(not 0 <= source < count for source, _ in pairs):
                return False
            mask = space.selectable[name][edges]
            if any(not 0 <= o < mask.shape[1] or not mask[source, o] for source, o in pairs):
                return False
    return True


@pytest.mark.parametrize("place", range(6))
def test_neighbours_and_mutations_are_those_of_plain_code(place: int) -> None:
    space = some_spaces()[place]
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    for _ in range(4):
        architecture = space.sample(generators[0])
        assert space.sample(generators[1]) == architecture
        near = list(plain_neighbours(space, architecture))
        assert list(space.neighbours(architecture)) == near
        drawn = near[int(torch.randint(len(near), (1,), generator=generators[1]))]
        assert space.mutate(architecture, generators[0]) == drawn


@pytest.mark.parametrize("place", range(6))
def test_exactly_the_points_of_a_space_are_accepted(place: int) -> None:
    space = some_spaces()[place]
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor(space.num_values)
    found = set()
    for i in range(300):
        choices = torch.tensor(space.sample(generator).choices)
        changed = torch.randint(len(values), (1 + i % 2,), generator=generator)
        choices[changed] = torch.randint(-1, 9, (len(changed),), generator=generator)
        architecture = Architecture(space.spec(), tuple(choices.tolist()))
        valid = plainly_valid(space, architecture)
        found.add(valid)
        if valid:
            space.check(architecture)
        else:
            with pytest.raises(ArchitectureError):
                space.check(architecture)
    assert found == {True, False}
