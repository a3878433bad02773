"""What a fit says about the files that it has written."""

from pathlib import Path

import pytest
import torch

from lightning_nas.cli.results import cell_lines, describe_outputs
from lightning_nas.spaces import DARTSSpace, NASBench101Space, NASBench201Space, SearchSpace
from tests.genotypes import DARTS_V2


def test_a_found_cell_is_written_out_with_its_text_and_files() -> None:
    space = NASBench201Space()
    path = space.architecture([3, 0, 1, 2, 3, 4]).save(Path("architecture.json"), objectives={"accuracy": 0.9125})
    assert describe_outputs({"architecture": [path], "history": [Path("history.json")]}).splitlines() == [
        "  found in NASBench201Space, accuracy 0.9125:",
        "    cell",
        "      1     = nor_conv_3x3(c_{k-1})",
        "      2     = skip_connect(1)",
        "      c_{k} = nor_conv_1x1(c_{k-1}) + nor_conv_3x3(1) + avg_pool_3x3(2)",
        "  |nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|nor_conv_3x3~1|avg_pool_3x3~2|",
        "  architecture.json",
        "  history.json",
    ]


def test_other_artifacts_are_named() -> None:
    files = [Path("proxy.safetensors"), Path("proxy.json")]
    assert describe_outputs({"proxy": files}) == "  proxy.safetensors\n  proxy.json"
    assert describe_outputs({}) == ""


@pytest.mark.parametrize("space", [DARTSSpace(), NASBench101Space()])
def test_cells_of_every_space_can_be_described(space: SearchSpace) -> None:
    found = space.sample(torch.Generator().manual_seed(0))
    path = found.save(Path("architecture.json"))
    assert f"  {space.text(found)}" in describe_outputs({"architecture": [path]}).splitlines()


def test_both_cells_of_darts_are_named() -> None:
    normal, reduce = DARTSSpace().graphs(DARTSSpace.parse(DARTS_V2))
    assert cell_lines(normal)[:2] == ["normal cell", "  0 = sep_conv_3x3(c_{k-2}) + sep_conv_3x3(c_{k-1})"]
    assert cell_lines(reduce)[0] == "reduce cell"
    assert len(cell_lines(reduce)) == 5
