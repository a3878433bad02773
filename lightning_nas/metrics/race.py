"""Which candidates have the highest mean, by as few paired measurements as it takes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_nas.checks import at_least
from lightning_nas.errors import ConfigError

TIE = 1e-5
"""Candidates whose values differ by at most this much on every image are equal: single precision rounds more finely
than that, but kernels that compute the same differ by more than the last digit."""


@dataclass(frozen=True)
class RaceResult:
    """The end of a race.

    Attributes:
        ranking: The candidates, highest mean first. Those that were left behind keep the mean that they had then.
        decided: Whether the first ``kept`` of them are ahead of all others by more than the error of the measurement.
        tie: Whether the last of the first ``kept`` and the one after it are equal on every image; never if decided.
        images: Number of images that the last candidates were measured on.
        lead: By how much the mean of the last of the first ``kept`` exceeds that of the one after it, on the images
            that both were measured on.
        error: Standard error of the lead, of paired differences; None for a single image.
    """

    ranking: tuple[int, ...]
    decided: bool
    tie: bool
    images: int
    lead: float
    error: float | None


def race(
    measure: Callable[[int, int], Tensor],
    candidates: int,
    batches: int,
    *,
    kept: int = 1,
    confidence: float = 0.95,
    left_behind: Callable[[int], None] | None = None,
) -> RaceResult:
    """Find the candidates with the highest mean over images, by as few images as it takes.

    All candidates are measured on the same images. They are compared after the first batch, and then whenever the
    number of batches has doubled. A candidate is left behind, and not measured any further, when ``kept`` others are
    ahead of it: when the mean of the paired differences exceeds its standard error by the quantile of Student's
    distribution. The race is over when only ``kept`` candidates are left, when all that are left are equal, or after
    the last batch.

    The confidence holds for the race as a whole: its complement is divided by the number of comparisons and of pairs
    that could decide the race (Bonferroni). Images are taken to be independent, although a supernet normalises those of
    a batch by their common statistics. In a supernet of NAS-Bench-201 this did no harm: among batches of 64 images,
    means of differences scattered 0.9 times as much as independent images would.

    References:
        1. Maron, Moore: Hoeffding Races: Accelerating Model Selection Search for Classification and Function
           Approximation, NeurIPS 1993

    Args:
        measure: Values ``(images,)`` of a candidate on a batch, given the indices of both; the number of images may
            differ between batches.
        candidates: Number of candidates, at least 2.
        batches: Number of batches, at least 1.
        kept: Number of candidates to find, from 1 to ``candidates - 1``.
        confidence: Probability, between 0.5 and 1, that a decision is right.
        left_behind: Called with the number of candidates that are out of the race after every comparison.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```python
        values = torch.randn(3, 8, 64) + torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
        race(lambda candidate, batch: values[candidate, batch], 3, 8).ranking[0]  # 1
        ```
    """
    at_least(2, candidates=candidates)
    at_least(1, batches=batches, kept=kept)
    if kept >= candidates or not 0.5 < confidence < 1:
        raise ConfigError(
            f"kept is {kept} of {candidates} candidates and confidence is {confidence}; kept must be below the number "
            "of candidates, and confidence between 0.5 and 1."
        )
    ends = [min(2**i, batches) for i in range((batches - 1).bit_length() + 1)]
    level = (1 - confidence) / (len(ends) * kept * (candidates - kept))
    values: list[Tensor] = [torch.empty(0, dtype=torch.float64)] * candidates
    running, done = list(range(candidates)), 0
    out: list[int] = []
    for end in ends:
        for batch in range(done, end):
            for each in running:
                values[each] = torch.cat([values[each], measure(each, batch).double().cpu()])
        done = end
        ahead, tied = _compare(torch.stack([values[each] for each in running]), level)
        behind = ahead.sum(0) >= kept
        out = [each for each, lost in zip(running, behind.tolist(), strict=True) if lost] + out
        running = [each for each, lost in zip(running, behind.tolist(), strict=True) if not lost]
        if left_behind is not None:
            left_behind(len(out))
        if len(running) == kept or bool((ahead | ahead.t() | tied)[~behind][:, ~behind].all()):
            break
    ranking = [*_sorted(running, values), *_sorted(out, values)]
    return _result(ranking, values, kept, decided=len(running) == kept, images=len(values[ranking[0]]))


def _compare(values: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Which candidates are ahead of which, and which are equal, as ``(candidates, candidates)``.

    Args:
        values: ``(candidates, images)``.
        level: Probability of being ahead by chance.
    """
    from scipy import stats  # slow to import

    images = values.shape[1]
    differences = values.unsqueeze(1) - values
    tied = differences.abs().amax(2) <= TIE
    if images < 2:
        return torch.zeros_like(tied), tied
    error = differences.std(2) / math.sqrt(images)
    return ~tied & (differences.mean(2) > float(stats.t.isf(level, images - 1)) * error), tied


def _sorted(candidates: Sequence[int], values: Sequence[Tensor]) -> list[int]:
    return sorted(candidates, key=lambda each: -float(values[each].mean()))


def _result(ranking: Sequence[int], values: Sequence[Tensor], kept: int, *, decided: bool, images: int) -> RaceResult:
    """Describe the end of a race, with the lead where it is decided."""
    last, first = (values[each] for each in ranking[kept - 1 : kept + 1])
    shared = min(len(last), len(first))
    differences = last[:shared] - first[:shared]
    error = float(differences.std()) / math.sqrt(shared) if shared > 1 else None
    tie = not decided and bool(differences.abs().max() <= TIE)
    return RaceResult(tuple(ranking), decided, tie, images, float(differences.mean()), error)
