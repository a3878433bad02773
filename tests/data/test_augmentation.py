"""Each batched augmentation against a slow loop over the images, given the same draws."""

import pytest
import torch

from lightning_nas.data.augmentation import Augmentation, Cutout, RandomCrop, RandomFlip
from lightning_nas.errors import ConfigError


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int = 20, channels: int = 3, height: int = 7, width: int = 9) -> torch.Tensor:
    return torch.rand(batch, channels, height, width, generator=generator(1)) + 0.1  # never 0


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_equals_a_loop(padding: int) -> None:
    x = images()
    tops, lefts = torch.randint(2 * padding + 1, (2, len(x)), generator=generator())
    cropped = RandomCrop(padding)(x, generator())
    for i, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True)):
        for row in range(7):
            for column in range(9):
                y, z = row + top - padding, column + left - padding
                expected = x[i, :, y, z] if 0 <= y < 7 and 0 <= z < 9 else torch.zeros(3)
                assert torch.equal(cropped[i, :, row, column], expected)


def test_flip_equals_a_loop() -> None:
    x = images()
    draws = torch.rand(len(x), generator=generator())
    flipped = RandomFlip()(x, generator())
    for i, draw in enumerate(draws.tolist()):
        columns = list(range(9))[:: -1 if draw < 0.5 else 1]
        assert torch.equal(flipped[i], torch.stack([x[i, :, :, c] for c in columns], 2))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 16])
def test_cutout_equals_a_loop(length: int) -> None:
    x = images()
    draws = generator()
    rows = torch.randint(7, (len(x), 1), generator=draws).flatten().tolist()
    columns = torch.randint(9, (len(x), 1), generator=draws).flatten().tolist()
    cut = Cutout(length)(x, generator())
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        expected = x[i].clone()
        top, left = row - length // 2, column - length // 2
        expected[:, max(top, 0) : max(top + length, 0), max(left, 0) : max(left + length, 0)] = 0
        assert torch.equal(cut[i], expected)


@pytest.mark.parametrize("augmentation", [RandomCrop(2), RandomFlip(), Cutout(3)])
def test_inputs_stay_and_draws_repeat(augmentation: Augmentation) -> None:
    x = images()
    before = x.clone()
    once, again, other = (augmentation(x, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(x, before)
    assert once.shape == x.shape
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_crop_shifts_are_uniform_and_independent() -> None:
    x = torch.zeros(18_000, 1, 5, 5)
    x[:, :, 2, 2] = 1
    place = RandomCrop(1)(x, generator()).flatten(1).argmax(1)
    counts = torch.bincount(place, minlength=25).reshape(5, 5)
    assert int(counts[1:4, 1:4].sum()) == 18_000
    # 9 places, 2,000 expected at each, standard deviation 42
    assert int((counts[1:4, 1:4] - 2000).abs().max()) < 200


def test_flip_has_its_probability() -> None:
    x = torch.arange(2.0).expand(10_000, 1, 1, 2)
    for probability, low, high in ((0.0, 0, 0), (0.5, 4700, 5300), (1.0, 10_000, 10_000)):
        flipped = RandomFlip(probability)(x, generator())
        assert low <= int(flipped[:, 0, 0, 0].sum()) <= high


def test_cutout_centre_is_uniform_and_loses_less_at_the_border() -> None:
    x = torch.ones(16_000, 1, 4, 4)
    lost = 1 - Cutout(1)(x, generator()).mean(0)[0]
    assert float((lost - 1 / 16).abs().max()) < 0.01
    lost = 1 - Cutout(3)(x, generator()).mean(0)[0]
    # a corner is covered by the 4 centres of its 2x2 neighbourhood, an inner pixel by 9
    assert abs(float(lost[0, 0]) - 4 / 16) < 0.02
    assert abs(float(lost[1, 1]) - 9 / 16) < 0.02


def test_wrong_arguments_name_the_value() -> None:
    for make, text in (
        (lambda: RandomCrop(-1), "padding is -1"),
        (lambda: RandomFlip(1.5), "probability is 1.5"),
        (lambda: Cutout(0), "length is 0"),
    ):
        with pytest.raises(ConfigError, match=text):
            make()
