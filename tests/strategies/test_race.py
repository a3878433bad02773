"""A race on noisy losses whose truth is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import ttest_1samp

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.evaluation import Evaluation, Evaluator
from lightning_nas.files.artifacts import write_json
from lightning_nas.spaces import ConstrainedSpace, NASBench201Space
from lightning_nas.strategies import QueryHistory, Race
from lightning_nas.strategies.race import confidence_above_zero

SPACE = NASBench201Space()
CELLS = [SPACE.architecture(choices) for choices in ([3] * 6, [3, 3, 3, 1, 3, 3], [3, 2, 3, 2, 3, 2], [4] * 6, [1] * 6)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """The first two cells as results of searches, and a history with all of them, the best last."""
    starts = [str(cell.save(tmp_path / f"{i}.json")) for i, cell in enumerate(CELLS[:2])]
    old = {"choices": list(CELLS[4].choices), "objectives": {"zero_cost": 100.0}}  # ranks of an earlier population
    rows = [{"choices": list(cell.choices), "objectives": {"zero_cost": float(i)}} for i, cell in enumerate(CELLS)]
    history = {"objective": "zero_cost", "history": [old, *rows, {**old, "objectives": {"zero_cost": -1.0}}]}
    return {"starts": starts, "screened": str(write_json(tmp_path / "history.json", history))}


def run(race: Race, truth: dict[tuple[int, ...], float], noise: float, seed: int = 0) -> list[list[Architecture]]:
    """All rounds: a finalist's loss is its truth plus noise, and a part of the noise is common to the round."""
    generator = torch.Generator().manual_seed(seed)
    race.start(SPACE, "loss", seed)
    rounds: list[list[Architecture]] = []
    while asked := race.ask(100):
        common = float(torch.randn((), generator=generator))
        own = (noise * torch.randn(len(asked), generator=generator)).tolist()
        race.tell([(a, Evaluation({"loss": truth[a.choices] + common + e})) for a, e in zip(asked, own, strict=True)])
        rounds.append(asked)
    return rounds


def losses(*values: float) -> dict[tuple[int, ...], float]:
    return {cell.choices: value for cell, value in zip(CELLS, values, strict=True)}


def test_the_best_of_the_history_join_the_starts(files: dict[str, Any]) -> None:
    race = Race(**files, count=3)
    race.start(SPACE, "loss")
    assert list(race.finalists.values()) == [CELLS[0], CELLS[1], CELLS[3], CELLS[2]]
    small = ConstrainedSpace(SPACE, lambda a: {"convolutions": float(a.choices.count(3))}, {"convolutions": 5})
    with pytest.raises(ConfigError, match=r"0\.json cannot be a start"):
        Race(**files).start(small, "loss")


def test_a_clear_winner_ends_the_race_early_and_the_worst_are_dropped(files: dict[str, Any]) -> None:
    race = Race(**files, count=5, rounds=10)
    rounds = run(race, losses(0.5, 0.1, 0.6, 0.7, 0.8), noise=0.01)
    assert race.best() == CELLS[1]
    assert [len(each) for each in rounds] == [5, 3, 2]
    assert all(CELLS[0] in each for each in rounds)  # the incumbent stays to the end


def test_noise_alone_does_not_overrule_the_incumbent(files: dict[str, Any]) -> None:
    equal = losses(0.5, 0.5, 0.5, 0.5, 0.5)
    kept = 0
    for seed in range(40):
        race = Race(**files, count=4, confidence=0.95)
        run(race, equal, noise=0.1, seed=seed)
        kept += race.best() == CELLS[0]
    assert kept >= 30
    by_sign = 0
    for seed in range(40):
        race = Race(**files, count=4, confidence=0.5)
        run(race, equal, noise=0.1, seed=seed)
        by_sign += race.best() == CELLS[0]
    assert by_sign < kept


def test_the_confidence_is_that_of_a_paired_t_test() -> None:
    differences = [0.3, 0.1, 0.25, -0.05]
    expected = ttest_1samp(differences, 0.0, alternative="greater").pvalue
    assert confidence_above_zero(differences) == pytest.approx(1 - expected)
    assert confidence_above_zero(differences[:2]) == 0.5
    assert confidence_above_zero([0.0] * 3) == 0.5
    assert confidence_above_zero([0.1] * 3) == 1.0


def test_a_resumed_race_equals_an_uninterrupted_one(files: dict[str, Any]) -> None:
    truth = losses(0.5, 0.45, 0.6, 0.55, 0.8)

    def tell(race: Race, asked: list[Architecture]) -> None:
        noisy = [truth[a.choices] + 0.1 * float(torch.randn((), generator=draws)) for a in asked]
        race.tell([(a, Evaluation({"loss": value})) for a, value in zip(asked, noisy, strict=True)])

    ends = []
    for stop in (None, 1, 3):
        draws = torch.Generator().manual_seed(1)
        race = Race(**files, rounds=4)
        race.start(SPACE, "loss", 2)
        asked = race.ask(2)
        steps = 0
        while asked:
            tell(race, asked)
            steps += 1
            if steps == stop:
                state = race.state_dict()
                race = Race(**files, rounds=4)
                race.start(SPACE, "loss", 2)
                race.load_state_dict(state)
            asked = race.ask(2)
        ends.append((race.best(), race.scores, race.round))
    assert ends[0] == ends[1] == ends[2]


def test_wrong_input_is_refused(files: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rounds is 2"):
        Race(rounds=2)
    with pytest.raises(ConfigError, match="confidence is 1"):
        Race(confidence=1.0)
    broken = write_json(tmp_path / "broken.json", {"objective": "loss", "history": [{"objectives": {}}]})
    with pytest.raises(ArtifactError, match=r"broken\.json has no queries"):
        Race(screened=str(broken)).start(SPACE, "loss")


class Noisy(Evaluator):
    """The losses of ``losses``, noise of the round, and a failure of one cell in round 1."""

    def __init__(self, fails: Architecture | None = None) -> None:
        self.truth = losses(0.5, 0.2, 0.6, 0.7, 0.8)
        self.fails = fails

    def begin(self, round: int) -> None:
        self.version = round

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        if self.version == 1 and self.fails in architectures:
            raise RuntimeError("out of memory")
        draws = torch.Generator().manual_seed(self.version)
        return [
            Evaluation({"loss": self.truth[a.choices] + 0.02 * float(torch.randn((), generator=draws))})
            for a in architectures
        ]


@pytest.mark.parametrize("fails", [None, CELLS[0], CELLS[2]])
def test_a_search_ends_with_the_winner_of_the_race(files: dict[str, Any], fails: Architecture | None) -> None:
    history = QueryHistory(SPACE, Noisy(fails), budget=100, objective="loss")
    race = Race(**files)
    race.start(SPACE, "loss", 0)
    while history.step(race, 3):
        pass
    assert history.best[0] == race.winner() == CELLS[1]
    assert len(history.failures) == (fails is not None)
    assert fails not in race.finalists.values()
    again = QueryHistory(SPACE, Noisy(), budget=100, objective="loss")
    again.load_state_dict(history.state_dict())
    assert again.best[0] == CELLS[1]
