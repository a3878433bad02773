"""Difficulty by hand, and the images that are chosen by it."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_nas.distill.base import Scheme, Selection
from lightning_nas.distill.bases import HallucinatedBases
from lightning_nas.distill.difficulty import (
    EL2N,
    AreaUnderMargin,
    Difficulty,
    DifficultySelection,
    ForgettingEvents,
    Keep,
    LossDifficulty,
)
from lightning_nas.distill.images import PlainImages, RandomSubset
from lightning_nas.distill.relations import RelationMappings
from lightning_nas.errors import ConfigError
from tests.helpers import started

# two classes, three epochs, four images: always right; right, wrong, right; never right; right, right, wrong
LABELS = torch.tensor([0, 0, 1, 1])
MARGINS = torch.tensor([[2.0, 1.0, -1.0, 1.0], [3.0, -1.0, -2.0, 2.0], [4.0, 1.0, -3.0, -1.0]])
LOGITS = torch.zeros(3, 4, 2).scatter(2, LABELS.expand(3, 4)[..., None], MARGINS[..., None])


def wrong(margin: float) -> float:
    """Probability of the other one of two classes."""
    return 1 / (1 + math.exp(margin))


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (LossDifficulty(), [math.log1p(math.exp(-m)) for m in (4.0, 1.0, -3.0, -1.0)]),
        (EL2N(), [math.sqrt(2) * sum(map(wrong, image)) / 3 for image in MARGINS.t().tolist()]),
        (ForgettingEvents(), [0.0, 1.0, 3.0, 1.0]),
        (AreaUnderMargin(), [-3.0, -1 / 3, 2.0, -2 / 3]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_measures_by_hand(measure: Difficulty, expected: list[float]) -> None:
    torch.testing.assert_close(measure.scores(LOGITS, LABELS), torch.tensor(expected))


def test_the_margin_is_to_the_largest_other_logit() -> None:
    logits = torch.tensor([[[1.0, 5.0, 2.0]], [[4.0, 0.0, 3.0]]])
    assert AreaUnderMargin().scores(logits, torch.tensor([0])).tolist() == [pytest.approx((4 - 1) / 2)]


class ByPlace(Difficulty):
    """The later an image comes, the more difficult it is."""

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Its place."""
        return torch.arange(float(logits.shape[1]))


class Equal(Difficulty):
    """All images are equally difficult."""

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros(logits.shape[1])


def selection(measure: Difficulty | None = None, keep: Keep = "easy", fraction: float = 0.5) -> DifficultySelection:
    return DifficultySelection(measure, keep=keep, fraction=fraction, width=4, depth=1, epochs=2)


X, Y = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


@pytest.mark.parametrize(("keep", "places"), [("easy", range(10)), ("middle", range(5, 15)), ("hard", range(10, 20))])
def test_images_are_random_ones_of_their_part_of_every_class(keep: Keep, places: range) -> None:
    chosen = selection(ByPlace(), keep).choose(X, Y, 6, 2, torch.Generator().manual_seed(1))
    assert torch.equal(Y[chosen], torch.arange(2).repeat_interleave(6))
    assert len(chosen.unique()) == 12
    assert {int(place) // 2 for place in chosen} <= {*places}
    every = selection(ByPlace(), keep).choose(X, Y, 10, 2, torch.Generator().manual_seed(1))
    assert {int(place) // 2 for place in every} == {*places}
    other = selection(ByPlace(), keep).choose(X, Y, 6, 2, torch.Generator().manual_seed(2))
    assert chosen.tolist() != other.tolist()


def test_equally_difficult_images_come_at_random() -> None:
    chosen = selection(Equal(), fraction=0.5).choose(X, Y, 10, 2, torch.Generator().manual_seed(0))
    assert max(int(place) for place in chosen) >= 20


def test_a_network_finds_noise_difficult() -> None:
    """Images of two clear classes, a quarter of them with noise in place."""
    x = torch.where(Y[:, None, None, None] == 0, -1.0, 1.0) * torch.linspace(-1, 1, 8).expand(40, 1, 8, 8)
    x[::4] = X[::4]
    x[1::4] = X[1::4]
    before = torch.get_rng_state()
    chosen = DifficultySelection(width=8, depth=1, epochs=8, learning_rate=0.1).choose(
        x, Y, 8, 2, torch.Generator().manual_seed(0)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(int(place) % 4 > 1 for place in chosen) >= 12


@pytest.mark.parametrize(
    "begun",
    [
        lambda s: PlainImages(4, selection=s),
        lambda s: RandomSubset(4, selection=s),
        lambda s: HallucinatedBases(4, hallucinators=1, noise=0, padded=True, selection=s),
        lambda s: RelationMappings(8, mappings=4, banks=1, selection=s),
    ],
)
def test_every_scheme_begins_with_the_chosen_images(begun: Callable[[Selection], Scheme]) -> None:
    scheme = started(begun(selection(ByPlace())), X, Y)
    chosen = selection(ByPlace()).choose(X, Y, 4, 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(scheme.proxy().images, X[chosen], rtol=0, atol=1e-4)
    with pytest.raises(ConfigError, match="is 4; fraction 0.1 of the 20 training images of class 0 are 2. Use a large"):
        begun(selection(fraction=0.1)).check(Y, 2)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"keep": "simple"}, "keep is 'simple'; it must be one of 'easy', 'middle', 'hard'"),
        ({"fraction": 0.0}, "fraction is 0"),
        ({"fraction": 1.1}, "fraction is 1.1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        DifficultySelection(**arguments)  # type: ignore[arg-type]
