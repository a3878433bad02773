"""Screens and correlations, on a made-up table and two trainings."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.screen import SCORES, main
from lightning_nas.files.artifacts import write_json, write_tensors
from lightning_nas.metrics.ranking import kendall_tau
from lightning_nas.spaces import DARTSSpace, NASBench201Space
from lightning_nas.tables import NASBench201Table
from lightning_nas.tables.synthetic import write_nasbench201
from tests.tiny import arrays


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    write_nasbench201(tmp_path / "nasbench201.npz")
    return [f"--images={arrays(tmp_path / 'images.npz', 16)}", f"--data={tmp_path}", "--first_seed=1"]


def last(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_screen_finds_the_largest_cell_by_its_size(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--scores", "parameters", "macs", "--initial=2", "--parents=1", "--screen_rounds=0", "--seeds=1"]
    main([*given, *chosen])
    found = last(capsys)
    assert found["first_accuracy"] == found["least"] == found["largest"]
    assert (found["seeds"], found["method"]) == ([1, 1], "screen")
    main([*given, *chosen, "--cap=0.5"])
    assert "capped_accuracy" in last(capsys)


def test_a_searched_cell_takes_part_in_the_screen_and_in_the_race(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = "|skip_connect~0|+|nor_conv_3x3~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"
    printed = tmp_path / "searched.txt"
    printed.write_text("some line\n" + json.dumps({"seed": 1, "search_alone_cell": cell}) + '\n{"method": "darts"}\n')
    small = ["--scores", "parameters", "shortest_path", "--initial=1", "--parents=1", "--screen_rounds=0", "--seeds=1"]
    race = ["--race", "--count=1", "--rounds=3", "--steps=1", "--batch_size=8", "--workers=1", "--classes=2"]
    main([*given, *small, *race, f"--searched={printed}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("s")
    assert "of 3 cells" in lines[0]  # the largest, the one that was searched, and a random one
    table, space = NASBench201Table(str(tmp_path / "nasbench201.npz")), NASBench201Space()
    accuracy = table.lookup(space.parse(cell), "cifar10_test_200")
    assert any(line.startswith(f"  {accuracy:.2f} % losses") for line in lines)
    assert json.loads(lines[-1])["method"] == "search and screen and race"


@pytest.mark.slow
def test_scores_are_compared_with_accuracies(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*given, "--tau=6", "--resamples=3", f"--write={tmp_path / 'scores.json'}"])
    found = last(capsys)["tau"]
    assert isinstance(found, dict)
    assert list(found) == ["all", "best tenth"]
    assert set(found["all"]) == {*(score.name for score in SCORES), "zero_cost"}
    for tau, low, high in found["all"].values():
        assert all(-1 <= each <= 1 or each != each for each in (tau, low, high))
    rows = json.loads((tmp_path / "scores.json").read_text())["samples"]
    assert [len(rows[name]) for name in ("all", "best tenth")] == [6, 3]
    table, space = NASBench201Table(str(tmp_path / "nasbench201.npz")), NASBench201Space()
    for name, cells in rows.items():
        accuracies = [table.lookup(space.parse(row["cell"]), "cifar10_test_200") for row in cells]
        tau = kendall_tau([row["parameters"] for row in cells], accuracies)
        assert found[name]["parameters"][0] == pytest.approx(tau, abs=1e-3)


@pytest.mark.slow
def test_the_darts_space_has_the_accuracies_of_trainings(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = DARTSSpace()
    small = space.architecture([0, 3, 1, 3] * 8)
    known = (("largest", space.largest(), 80.0), ("largest", space.largest(), 90.0), ("random_0", small, 50.0))
    rows = [{"name": name, "genotype": space.text(cell), "accuracy": accuracy} for name, cell, accuracy in known]
    truth = write_json(tmp_path / "truth.json", {"recipe": {}, "rows": rows})
    darts = [*given, "--space=darts", f"--truth={truth}"]
    brief = ["--steps=1", "--batch_size=8", "--workers=1", "--classes=2"]
    alphas = tmp_path / "alphas.safetensors"
    shares = torch.zeros(1, space.edges, len(space.operations))
    shares[..., space.chosen(small)["normal"][0][1]] = 1  # of an operation that the small cell has
    write_tensors(alphas, {name: shares.clone() for name in space.cell_types})
    main([*darts, "--tau=1", "--resamples=3", "--trainings", *brief, f"--alphas={alphas}"])
    taus = last(capsys)["tau"]["all"]  # type: ignore[index]
    assert taus["parameters"][0] == 1
    assert taus["alphas"][0] == -1
    assert taus["short_training"][0] in (-1, 1)
    screen = ["--initial=1", "--screen_rounds=0", "--scores", "parameters", "macs"]
    main([*darts, "--seeds=2", *screen, "--best_of=1", *brief])
    found = last(capsys)
    assert found["largest"] == found["first_accuracy"] == 85
    assert found["gains"] == [35, 35]
    write_json(truth, {"recipe": {}, "rows": rows[2:]})
    main([*darts, "--seeds=2", *screen, "--best_of=1", *brief])
    found = last(capsys)
    assert found["unknown"] == 2
    assert "gains" not in found
    with pytest.raises(SystemExit):
        main([*given, "--space=darts"])
