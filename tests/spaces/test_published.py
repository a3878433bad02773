"""Architectures as people paste them."""

import re

import pytest
import yaml

from lightning_nas.errors import ArchitectureError
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.spaces.published import as_text, is_published, parse_published
from tests.genotypes import DARTS_V1, DARTS_V2

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
PAIRS = (
    "((('nor_conv_3x3', 0),), (('none', 0), ('skip_connect', 1)), "
    "(('avg_pool_3x3', 0), ('nor_conv_1x1', 1), ('none', 2)))"
)
NESTED = (
    "Genotype(normal=[[('sep_conv_3x3', 1), ('sep_conv_3x3', 0)], [('skip_connect', 0), ('max_pool_3x3', 1)]], "
    "normal_concat=range(2, 4), reduce=(('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), "
    "('max_pool_3x3', 1)), reduce_concat=list(range(2, 4)))"
)
FLAT = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('max_pool_3x3', 1)], "
    "normal_concat=[2, 3], reduce=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), "
    "('max_pool_3x3', 1)], reduce_concat=[2, 3])"
)
# https://github.com/quark0/darts/blob/master/cnn/genotypes.py, where it is AmoebaNet
AMOEBA = (
    "AmoebaNet = Genotype(normal=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 2), "
    "('sep_conv_3x3', 0), ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('skip_connect', 1), ('skip_connect', 0), "
    "('avg_pool_3x3', 1)], normal_concat=[4, 5, 6], reduce=[('avg_pool_3x3', 0), ('sep_conv_3x3', 1), "
    "('max_pool_3x3', 0), ('sep_conv_7x7', 2), ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('max_pool_3x3', 1), ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5)], reduce_concat=[3, 4, 6])"
)


@pytest.mark.parametrize(
    "text",
    [
        DARTS_V2,
        f"DARTS_V2 = {DARTS_V2}",
        f"genotype: {DARTS_V2}",
        f"# the second order\nDARTS_V2 = {DARTS_V2}\n",
        f'"{DARTS_V2}"',
        f"genotypes.{DARTS_V2},",
        DARTS_V2.replace(", ", ",\n    "),
        DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)"),
        DARTS_V2.replace("[2, 3, 4, 5]", "(5, 4, 3, 2)"),
        re.sub(r" (\d)\)", r" np.int64(\1))", DARTS_V2),
        re.sub(r"(\w+)=", r"'\1': ", DARTS_V2).replace("Genotype(", "{").removesuffix(")") + "}",
    ],
)
def test_forms_of_genotypes(text: str) -> None:
    assert is_published(text)
    assert parse_published(text) == DARTSSpace.parse(DARTS_V2)


def test_pairs_may_be_grouped_by_node() -> None:
    assert parse_published(NESTED) == parse_published(FLAT) == DARTSSpace(nodes=2).parse(FLAT)
    assert parse_published(DARTS_V1) != parse_published(DARTS_V2)


@pytest.mark.parametrize(
    "text",
    [
        CELL,
        f"arch: {CELL}",
        f"arch_str = '{CELL}'",
        f"  {CELL}\n",
        PAIRS,
        PAIRS.replace("(", "[").replace(")", "]"),
        f"cell = {PAIRS}",
        "arch: " + CELL.replace("none~0|skip_connect~1", "skip_connect~1|none~0"),
    ],
)
def test_forms_of_cells(text: str) -> None:
    assert is_published(text)
    assert parse_published(text) == NASBench201Space.parse(CELL)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (AMOEBA, r"operations conv_7x1_1x7, sep_conv_7x7; the operations of the space are max_pool_3x3"),
        (AMOEBA, r"its outputs concatenate the states \[4, 5, 6\] and \[3, 4, 6\]; .* all 5 inner nodes"),
        (DARTS_V2.replace("[2, 3, 4, 5]", "[3, 4, 5]"), r"the states \[3, 4, 5\] and \[3, 4, 5\]"),
        (DARTS_V2.replace("'skip_connect'", "'none'"), "it has 'none' on an edge"),
        (DARTS_V2.replace("('skip_connect', 0), ", "", 1), "7 pairs in the normal cell and 8 in the reduction"),
        ("Genotype(normal=[], normal_concat=[], reduce=[], reduce_concat=[])", "0 pairs in the normal cell"),
        ("Genotype(normal=[('sep_conv_3x3', '0')] * 2)", "is not a literal"),
        ("Genotype(normal=[('sep_conv_3x3', '0')], normal_concat=1, reduce=1, reduce_concat=2)", "is not a pair"),
        ("Genotype(normal=[1, 2], normal_concat=1, reduce=1, reduce_concat=2)", "Not a genotype"),
        ("Network(a=1)", r"it is not Genotype\(...\)"),
        ("{'normal': []}", "Not a genotype: .*missing"),
        (CELL.replace("nor_conv_3x3", "dua_sepc_3x3"), "it has the operations dua_sepc_3x3"),
        (CELL.removesuffix("none~2|"), r"its nodes read the states \[\[0\], \[0, 1\], \[0, 1\]\] instead"),
        (PAIRS.replace("2)", "1)"), "its nodes read the states"),
        (PAIRS.replace("2)", "'2')"), "is not a pair"),
        ("[1, 2, 3]", "Not a cell of NAS-Bench-201"),
        ("|a~b|+|c", "Not a cell of NAS-Bench-201"),
        ("(((", "Not an architecture in a published form"),
        ("[" * 5000, "Not an architecture in a published form"),
        ("[x for x in y]", "is not a literal"),
        ("__import__('os').system('touch x')[0]", "Not a cell"),
    ],
)
def test_what_belongs_to_another_space_is_refused_by_its_reason(text: str, match: str) -> None:
    assert is_published(text)
    with pytest.raises(ArchitectureError, match=match) as caught:
        parse_published(text)
    said = str(caught.value)
    assert len(said) < 800
    assert said.count(text[:100]) <= 1


@pytest.mark.parametrize(
    "text",
    [
        PAIRS.replace("(", "[").replace(")", "]"),
        "[[('nor_conv_3x3', 0)], [('none', 0), ('skip_connect', 1)], "
        "[('avg_pool_3x3', 0), ('nor_conv_1x1', 1), ('none', 2)]]",
        "[[[nor_conv_3x3, 0]], [[none, 0], [skip_connect, 1]], [[avg_pool_3x3, 0], [nor_conv_1x1, 1], [none, 2]]]",
    ],
)
def test_lists_that_yaml_has_read_are_architectures(text: str) -> None:
    read = yaml.safe_load(text)
    assert isinstance(read, list)
    assert parse_published(as_text(read)) == NASBench201Space.parse(CELL)
    assert as_text(CELL) == CELL
    cells = [("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("max_pool_3x3", 1)]
    found = {"normal": cells, "normal_concat": (2, 3), "reduce": cells, "reduce_concat": [2, 3]}
    assert parse_published(as_text(found)) == DARTSSpace.parse(FLAT)


def test_paths_are_paths() -> None:
    for path in ("architecture.json", "runs (1)/lr=[0.1]/architecture.json", "runs/first", "C:\\x\\architecture.json"):
        assert not is_published(path)
