"""One differentiable change for all images of a step."""

from typing import Any

import pytest
import torch

from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError

X, Y = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


CHANGES: list[dict[str, Any]] = [
    {"flip": 1.0},
    {"shift": 0.25},
    {"scale": 1.5},
    {"rotation": 40.0},
    {"cutout": 0.5},
    {"brightness": 1.0, "saturation": 2.0, "contrast": 0.5},
]


OFF = dict.fromkeys(("flip", "shift", "scale", "rotation", "cutout", "brightness", "saturation", "contrast"), 0.0)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_all_images_get_the_same_differentiable_change(change: dict[str, Any]) -> None:
    augment = SiameseAugmentation(**{**OFF, **change})
    x = X[:6].double().requires_grad_()
    changed = augment(x, 5)
    assert changed.shape == x.shape
    assert not torch.equal(changed, x)
    for i in range(6):  # whatever the batch
        torch.testing.assert_close(augment(x[i : i + 1], 5)[0], changed[i])
    assert torch.autograd.gradcheck(lambda y: augment(y, 5), X[:1, :, :4, :4].double().requires_grad_())
    before = torch.get_rng_state()
    others = [augment(x, seed) for seed in range(6)]
    assert torch.equal(before, torch.get_rng_state())
    assert "flip" in change or not all(torch.equal(other, changed) for other in others)


def test_changes_are_what_they_are_called() -> None:
    x = X[:2]
    assert torch.equal(SiameseAugmentation(**{**OFF, "flip": 1.0})(x, 0), x.flip(3))
    assert SiameseAugmentation(**OFF)(x, 0) is x
    cut = SiameseAugmentation(**{**OFF, "cutout": 0.5})
    shares = [float((cut(torch.ones(1, 1, 8, 8), seed) == 0).float().mean()) for seed in range(20)]
    assert max(shares) == 0.25
    assert min(shares) > 0
    shift = SiameseAugmentation(**{**OFF, "shift": 0.25})
    shifted = [shift(x, seed) for seed in range(10)]
    for y in shifted:
        rolled = [x.roll((a, b), (2, 3)) for a in range(-2, 3) for b in range(-2, 3)]
        assert any(bool(((y == r) | (y == 0)).all()) for r in rolled)
    half_turn = SiameseAugmentation(**{**OFF, "rotation": 180.0})
    for seed in range(5):  # lengths don't grow
        assert half_turn(x, seed).abs().max() <= x.abs().max() + 1e-5
    grey = torch.ones(1, 3, 4, 4)
    bright = SiameseAugmentation(**{**OFF, "brightness": 1.0})
    values = torch.stack([bright(grey, seed) for seed in range(50)])
    assert values.min() >= 0.5
    assert values.max() <= 1.5
    assert values.std() > 0.2


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SiameseAugmentation(flip=1.5), r"flip is 1.5; it must lie in \[0, 1\]"),
        (lambda: SiameseAugmentation(scale=0.5), "scale is 0.5; it must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
