"""All parts of the benchmark for GPUs, in tiny sizes on the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import FULL, MODES, PARTS, Bench, main
from benchmarks.supernet_speed import SETTINGS

Last = Callable[[], dict[str, Any]]


RUNS = ("short", "search", "supernet")
"""Parts that are in a module of their own, as is their test."""


@pytest.mark.slow
def test_the_parts_that_measure_steps(images: Path, tables: Path, last: Last) -> None:
    main(["--tiny", "--device=cpu", f"--data={images}", f"--tables={tables}", "--skip", *RUNS])
    found = last()
    assert list(found) == ["device", "torch", "tiny", *(part for part in PARTS if part not in RUNS), "seconds"]
    assert set(found["steps"]) == {
        *(f"{name} {mode}" for name in ("S", "nasbench201", "single path") for mode in list(MODES)[:3])
    }
    for step in (*found["steps"].values(), *found["second"].values(), *found["distill"].values()):
        assert step["ms"] > 0
    assert found["compile"] == {"unfinished_after": 1.0}


def test_a_part_that_fails_says_so_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], last: Last
) -> None:
    monkeypatch.setattr(Bench, "distill", lambda bench: 1 / 0)
    monkeypatch.setattr(gpu, "our_step", lambda setting: lambda: None)
    with pytest.raises(SystemExit) as stopped:
        main(["--tiny", "--device=cpu", "--parts", "distill", "second", "short", "compile", "--skip", "compile"])
    assert stopped.value.code == 1
    found = last()
    assert found["distill"]["error"].startswith("ZeroDivisionError")
    assert found["second"]["S exact"]["ms"] >= 0
    assert found["short"] == {"left_out": "needs --data"}
    assert "compile" not in found


def test_without_a_gpu_full_sizes_have_to_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main([])
    assert "there is no GPU" in capsys.readouterr().err


def test_parts_in_full_sizes_take_less_than_eight_minutes_and_have_known_settings() -> None:
    assert dict(FULL.settings) == {name: SETTINGS[name] for name in ("S", "L", "nasbench201")}
    sums = [PARTS["search"][0], PARTS["supernet"][0], PARTS["compile"][0]]
    assert sums[0] >= FULL.search + 4 * FULL.training
    assert sums[1] > FULL.supernet
    assert sums[2] >= FULL.compile
