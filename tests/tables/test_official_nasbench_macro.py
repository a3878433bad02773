"""The table of NAS-Bench-Macro from files in the published format, written here by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_nas.__main__ import main
from lightning_nas.errors import DataError
from lightning_nas.spaces import NASBenchMacroSpace
from lightning_nas.tables import SpaceTable, nasbench_macro_from_json

SPACE = NASBenchMacroSpace()
SAME = {"test_acc": [93.1, 92.9, 93.0], "mean_acc": 93.0, "std": 0.08, "params": 1_000_000, "flops": 90_500_000}
CONTENT: dict[str, Any] = {
    "12010210": SAME,
    "12010201": SAME,
    "22222222": {"test_acc": [90, 91.5, 92], "mean_acc": 91.2, "std": 0.8, "params": 2_932_586, "flops": 10**8},
}


def file(content: Any) -> Path:
    path = Path("nas-bench-macro_cifar10.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_table_has_one_row_per_network(capsys: pytest.CaptureFixture[str]) -> None:
    main(["table", "nasbench_macro", str(file(CONTENT)), "--output", "made.npz"])
    assert capsys.readouterr().out == "made.npz\n"
    table = SpaceTable("made.npz", SPACE)
    assert len(table) == 2
    assert table.columns == ["cifar10_flops", "cifar10_params", "cifar10_test_50"]
    assert table.trials("cifar10_test_50") == 3
    for name in ("12010210", "12010201"):
        assert table.lookup(SPACE.parse(name), "cifar10_test_50") == pytest.approx(93.0)
        assert table.lookup(SPACE.parse(name), "cifar10_flops") == 90.5
    assert table.lookup(SPACE.parse("22222222"), "cifar10_test_50", 1) == 91.5
    assert table.lookup(SPACE.largest(), "cifar10_params") == 2_932_586


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "cannot be read .*JSONDecodeError"),
        ("[" * 100_000, "cannot be read .*RecursionError"),
        ([1], "has no architectures with their results"),
        ({}, "has no architectures with their results"),
        ({"1111": SAME}, "'1111' of .*is not a name such as 12211222"),
        ({"11111111": 3}, "'11111111' of .* cannot be used .*TypeError"),
        ({"11111111": {**SAME, "test_acc": [93.0]}}, r"the accuracies \[93.0\]; expected 3 percentages"),
        ({"11111111": {**SAME, "test_acc": [93.0, float("nan"), 1]}}, "expected 3 percentages"),
        ({"11111111": {**SAME, "params": 0}}, "0 parameters"),
        ({"11111111": {"test_acc": [1, 2, 3]}}, "KeyError: 'params'"),
        ({**CONTENT, "12010201": {**SAME, "params": 7}}, "12010201 of .* has other results than the same network"),
    ],
)
def test_wrong_contents_are_named(content: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        nasbench_macro_from_json(file(content), "made.npz")
    assert not Path("made.npz").exists()


def test_missing_and_large_files_are_named() -> None:
    with pytest.raises(DataError, match="none.json cannot be read .* Download nas-bench-macro_cifar10.json"):
        nasbench_macro_from_json("none.json", "made.npz")
    with pytest.raises(DataError, match="it has 16777217 bytes"):
        nasbench_macro_from_json(file(" " * (2**24 + 1)), "made.npz")
