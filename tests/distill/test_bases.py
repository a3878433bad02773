"""Scheme 1: bases and hallucinators."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.siamese import SiameseAugmentation
from lightning_nas.errors import ConfigError, DataError
from tests.helpers import started

X, Y = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3


def test_a_hallucinator_has_the_published_size() -> None:
    scheme = started(HallucinatedBases(1, hallucinators=5), torch.randn(20, 3, 32, 32), torch.arange(20) % 10)
    shared = sum(p.numel() for name, p in scheme.named_parameters() if name != "bases")
    assert shared == 5 * 5568
    assert scheme.stored_bytes == 4 * (10 * 3 * 32 * 32 + 5 * 5568) + 8 * 10


@pytest.mark.parametrize("options", [{}, {"base_channels": 1, "downscale": 2, "width": 5, "nonlinear": True}])
def test_every_pair_is_that_hallucinator_of_that_base(options: dict[str, Any]) -> None:
    scheme = started(HallucinatedBases(4, hallucinators=5, **options), X, Y)
    made = scheme.proxy()
    assert made.images.shape == (60, 3, 8, 8)
    for b in (0, 7):
        for h in (0, 4):
            x = scheme.get_parameter("bases")[b : b + 1]
            if options:
                x = nn.Upsample(scale_factor=2, mode="bilinear")(x)
            part = {name: scheme.get_parameter(name)[h] for name in scheme.parameter_names[1:]}
            x = F.conv2d(x, part["encode"], part["encode_bias"]) * part["scale"] + part["shift"]
            x = F.conv_transpose2d(x.relu() if options else x, part["decode"], part["decode_bias"])
            torch.testing.assert_close(made.images[5 * b + h], x[0])
            assert made.groups[5 * b + h] == b
            assert made.labels[5 * b + h] == scheme.get_buffer("labels")[b]


@pytest.mark.parametrize(
    "options", [{}, {"width": 3}, {"width": 7}, {"nonlinear": True}, {"width": 7, "nonlinear": True}]
)
def test_without_noise_hallucinators_start_as_the_identity_inside(options: dict[str, Any]) -> None:
    x = X.clamp(-2.4)
    scheme = started(HallucinatedBases(4, hallucinators=2, noise=0.0, **options), x, Y)
    images = scheme.proxy().images.unflatten(0, (12, 2))[..., 1:-1, 1:-1]
    bases = scheme.get_parameter("bases")[:, None, :, 1:-1, 1:-1]
    torch.testing.assert_close(images, bases.expand_as(images))
    noisy = started(HallucinatedBases(4, hallucinators=2), X, Y).proxy().images.unflatten(0, (12, 2))
    assert not torch.allclose(noisy[:, 0], noisy[:, 1], atol=0.01)


def test_a_step_draws_one_hallucinator_for_all_bases_and_all_in_turn() -> None:
    scheme = started(HallucinatedBases(2, hallucinators=3), X, Y)
    pairs = scheme.proxy().images.unflatten(0, (6, 3))
    seen = set()
    for seed in range(20):
        drawn = scheme.draw(seed).images
        (which,) = [h for h in range(3) if torch.allclose(drawn, pairs[:, h], atol=1e-6)]
        seen.add(which)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("count", [5, 6, 8])
def test_hallucinators_meet_all_changes(count: int) -> None:
    """The draw of a step and its augmentation have the same seed, but must not have the same random numbers."""
    scheme = started(HallucinatedBases(1, hallucinators=count, noise=1.0), X, Y)
    pairs = scheme.proxy().images.unflatten(0, (3, count))
    change, met = SiameseAugmentation(), set()

    def noted(number: int) -> Any:
        return lambda images, _: torch.full_like(images, number)

    change.changes = [noted(number) for number in range(6)]
    for seed in range(600):
        drawn = scheme.draw(seed).images
        (which,) = [h for h in range(count) if torch.allclose(drawn, pairs[:, h], atol=1e-5)]
        met.add((which, float(change(drawn, seed)[0, 0, 0, 0])))
    assert len(met) == count * 6


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: HallucinatedBases(0), "bases_per_class is 0"),
        (lambda: HallucinatedBases(2, hallucinators=-1), "hallucinators is -1"),
        (lambda: HallucinatedBases(2, downscale=0), "downscale is 0"),
        (lambda: HallucinatedBases(2, noise=-1.0), "noise is -1"),
        (lambda: started(HallucinatedBases(21), X, Y), "bases_per_class is 21; it must be from 1 to 20"),
        (lambda: started(HallucinatedBases(2, base_channels=2), X, Y), "base_channels is 2; it must be 1 or 3"),
        (lambda: started(HallucinatedBases(2, width=2), X, Y), "width is 2; it must be at least 3"),
    ],
)
def test_impossible_settings_are_refused(make: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_images_that_cannot_be_stored_smaller_are_refused() -> None:
    with pytest.raises(DataError, match="8x8 pixels cannot be stored at 1/3"):
        started(HallucinatedBases(2, downscale=3), X, Y)
