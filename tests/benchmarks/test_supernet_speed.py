"""Steps of a supernet beside those of the reference, in a tiny setting, and the settings of the page of results."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import supernet_speed
from benchmarks.supernet_speed import SETTINGS, Ours, Setting, main, make_reference
from tests.benchmarks.settings import in_this_process

KEYS = ["setting", "ratio", "seconds", "reference_seconds", "max_difference", "peak_mb", "reference_peak_mb"]


@pytest.mark.parametrize("setting", [Setting(8, 3, 2, (1, 8, 8)), Setting(8, 1, 2, (3, 8, 8), nasbench201=True)])
def test_both_supernets_compute_the_same(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, last: Callable[[], dict[str, Any]]
) -> None:
    monkeypatch.setitem(SETTINGS, "tiny", setting)
    in_this_process(monkeypatch, supernet_speed)
    main(["--setting=tiny", "--rounds=1"])
    found = last()
    assert list(found) == KEYS
    assert found["max_difference"] < 1e-4
    assert min(found[key] for key in KEYS[1:4]) > 0


def test_settings_are_those_of_the_page_of_results() -> None:
    shown = {
        "S": (8, 5, 32, (3, 32, 32), 1),
        "L": (16, 8, 64, (3, 32, 32), 1),
        "pc": (8, 5, 32, (3, 32, 32), 4),
        "digits": (8, 5, 32, (1, 8, 8), 1),
        "nasbench201": (16, 5, 64, (3, 32, 32), 1),
    }
    found = {name: (s.channels, s.cells, s.batch, s.image, s.partial_channels) for name, s in SETTINGS.items()}
    assert found == shown
    for setting in (SETTINGS["digits"], SETTINGS["nasbench201"]):
        plain = make_reference(setting)
        ours = Ours(setting, plain)
        stages = 3 if setting.nasbench201 else 1
        assert sum(not getattr(cell, "reduction", False) or stages == 1 for cell in plain.cells) == (
            stages * setting.cells
        )
        assert sum(p.numel() for p in ours.net.parameters()) == sum(p.numel() for p in plain.parameters())
