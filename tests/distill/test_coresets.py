"""Controls that choose real images equal the greedy choice written out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_nas.distill.coresets import Herding, KCenter
from lightning_nas.errors import ConfigError
from tests.helpers import started

X, Y = torch.zeros(60, 3, 8, 8), torch.arange(60) % 3


def features(n: int = 40) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(3))


def test_herding_is_the_greedy_choice_written_out() -> None:
    found, chosen = Herding().pick(features(), 6).tolist(), []
    for _ in range(6):
        rest = [i for i in range(40) if i not in chosen]
        distance = {i: float((features()[[*chosen, i]].mean(0) - features().mean(0)).norm()) for i in rest}
        chosen.append(min(rest, key=distance.__getitem__))
    assert found == chosen


def test_k_center_takes_the_farthest_written_out() -> None:
    x = features()
    chosen = [int((x - x.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < 6:
        chosen.append(int(torch.cdist(x, x[chosen]).min(1).values.argmax()))
    assert KCenter().pick(x, 6).tolist() == chosen
    assert sorted(KCenter().pick(torch.zeros(5, 6), 5).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Herding(2, steps=-1), "steps is -1"),
        (
            lambda: started(Herding(21, steps=0, width=2, depth=1), torch.zeros(60, 3, 8, 8), torch.arange(60) % 3),
            "images_per_class is 21",
        ),
    ],
)
def test_impossible_settings_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
