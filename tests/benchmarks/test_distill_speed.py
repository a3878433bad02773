"""Steps of distillation beside plain loops, in a tiny setting, and the setting of the page of results."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import distill_speed
from benchmarks.distill_speed import METHODS, Setting, arguments_of, main
from tests.benchmarks.settings import in_this_process


def test_steps_agree_with_loops(monkeypatch: pytest.MonkeyPatch, last: Callable[[], dict[str, Any]]) -> None:
    in_this_process(monkeypatch, distill_speed)
    main(["--real=2", "--width=4", "--rounds=1"])
    found = last()
    assert list(found) == ["distribution_ratio", "gradient_ratio", "max_difference", "peak_mb", "reference_peak_mb"]
    assert found["max_difference"] < 1e-4
    assert min(found.values()) > 0


def test_the_setting_is_that_of_the_page_of_results() -> None:
    """10 images per class of 32x32, and 64 real ones; ConvNet-3 of width 128."""
    options = arguments_of([])
    setting = Setting(options.real, options.width, options.device)
    real, real_labels, images, labels = setting.draw()
    assert (real.shape, images.shape) == ((640, 3, 32, 32), (100, 3, 32, 32))
    assert torch.bincount(labels).tolist() == [10] * 10
    assert torch.bincount(real_labels).tolist() == [64] * 10
    network = distill_speed.seeded_network(setting, 10)
    widths = [layer.out_channels for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [128] * 3
    assert set(METHODS) == {"distribution", "gradient"}
