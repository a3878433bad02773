"""Comparing classifiers on the same images."""

import pytest
import torch

from lightning_nas.errors import ConfigError
from lightning_nas.metrics.paired import PairedTest, sign_test, wilson_interval


@pytest.mark.parametrize(
    ("rate", "count", "interval"),
    # values of statsmodels' proportion_confint(method="wilson")
    [(0.99, 360, (0.9733, 0.9963)), (1.0, 20, (0.8389, 1.0)), (0.0, 10, (0.0, 0.2775)), (0.5, 10, (0.2366, 0.7634))],
)
def test_wilsons_interval(rate: float, count: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(rate, count) == pytest.approx(interval, abs=1e-3)


def test_an_interval_needs_trials() -> None:
    with pytest.raises(ConfigError, match="count is 0"):
        wilson_interval(0.5, 0)


def test_the_sign_test_with_one_training_is_the_exact_test_of_mcnemar() -> None:
    first = torch.tensor([1.0] * 9 + [0.0] + [1.0] * 5)
    second = torch.tensor([0.0] * 9 + [1.0] + [1.0] * 5)
    found = sign_test(first, second)
    assert found[:3] == (9, 1, 5)
    assert found.p == pytest.approx(2 * 11 / 1024)
    assert sign_test(second, first) == PairedTest(1, 9, 5, found.p)
    assert sign_test(first, first) == PairedTest(0, 0, 15, 1.0)


def test_shares_of_trainings_are_compared_by_image() -> None:
    found = sign_test(torch.tensor([2 / 3, 1.0, 1 / 3, 0.5]), torch.tensor([1 / 3, 1.0, 2 / 3, 0.0]))
    assert found == PairedTest(2, 1, 1, 1.0)


def test_many_images_do_not_overflow() -> None:
    both = torch.arange(20_000) % 2
    assert sign_test(both.float(), 1 - both.float()).p == 1.0
    assert sign_test(torch.ones(3000), torch.zeros(3000)).p < 1e-300
