"""What all spaces of cells have in common."""

import pytest
import torch

from lightning_nas.errors import ConfigError
from lightning_nas.spaces import DARTSSpace, NASBench201Space
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
