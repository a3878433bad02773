"""The prior of a differentiable search, against sums by hand."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ArtifactError, ConfigError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.prior import LEAST, AlphaPrior, PriorEvaluator
from lightning_nas.files.artifacts import write_tensors
from lightning_nas.spaces.darts.space import DARTSSpace
from lightning_nas.spaces.nasbench101.space import NASBench101Space
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.refine import Refine

SPACE = NASBench201Space(operations=("skip_connect", "nor_conv_3x3"))


def written(path: Path, *shares: float, epochs: int = 2) -> str:
    """Factors of a search that gives the second operation these shares, edge by edge, in its last epoch."""
    last = torch.tensor([[1 - share, share] for share in shares])
    others = torch.full((epochs - 1, *last.shape), 0.5)
    return str(write_tensors(path, {"cell": torch.cat([others, last.unsqueeze(0)])}))


class Constant(Evaluator):
    """The same loss for all but one."""

    def __init__(self, better: Architecture | None = None, gain: float = 0.0) -> None:
        self.better, self.gain = better, gain

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        return [Evaluation({"loss": 2.0 - self.gain * (a == self.better)}) for a in architectures]


def test_the_prior_is_the_sum_of_the_logarithms_of_what_is_chosen(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", 0.9, 0.8, 0.7, 0.4, 0.6, 1.0)
    (found,) = AlphaPrior([path]).evaluate([SPACE.architecture([1, 1, 0, 0, 1, 0])])
    expected = math.log(0.9) + math.log(0.8) + math.log(0.3) + math.log(0.6) + math.log(0.6) + math.log(LEAST)
    assert found.objectives == {"log_prior": pytest.approx(expected, rel=1e-6)}


def test_searches_are_averaged_and_factors_scaled_edge_by_edge(tmp_path: Path) -> None:
    first = written(tmp_path / "a.safetensors", *[0.8] * 6)
    scaled = {"cell": torch.tensor([[[0.2, 0.2]] * 6])}  # sigmoid or edge factors need not sum to 1
    second = str(write_tensors(tmp_path / "b.safetensors", scaled))
    (found,) = AlphaPrior([first, second]).evaluate([SPACE.architecture([1] * 6)])
    assert found.objectives["log_prior"] == pytest.approx(6 * (math.log(0.8) + math.log(0.5)) / 2, rel=1e-6)


def test_only_kept_edges_of_a_cell_count(tmp_path: Path) -> None:
    space = DARTSSpace(nodes=2)
    factors = {name: torch.rand(1, space.edges, len(space.operations)) for name in space.cell_types}
    prior = AlphaPrior([str(write_tensors(tmp_path / "a.safetensors", factors))])
    architecture = space.sample(torch.Generator().manual_seed(0))
    (found,) = prior.evaluate([architecture])
    shares = {name: each[0] / each[0].sum(1, keepdim=True) for name, each in factors.items()}
    pairs = [(name, *pair) for name, kept in space.chosen(architecture).items() for pair in kept]
    assert len(pairs) == 8
    assert found.objectives["log_prior"] == pytest.approx(sum(math.log(shares[n][e, o]) for n, e, o in pairs), rel=1e-5)


def test_a_loss_is_weighed_against_the_prior(tmp_path: Path) -> None:
    prior = AlphaPrior([written(tmp_path / "a.safetensors", *[0.8] * 6)])
    (found,) = PriorEvaluator(Constant(), prior=prior, weight=0.5).evaluate([SPACE.architecture([1] * 6)])
    assert found.objectives == {"prior_loss": pytest.approx(2.0 - 0.5 * 6 * math.log(0.8)), "loss": 2.0}


def test_capacity_is_the_logarithm_of_the_number_of_parameters(tmp_path: Path) -> None:
    large, small = (Evaluation({"loss": loss}, {"parameters": n}) for loss, n in ((2.0, 800.0), (1.9, 100.0)))

    class Sized(Evaluator):
        def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
            return [large, small]

    found = PriorEvaluator(Sized(), capacity=0.1).evaluate([SPACE.largest()] * 2)
    assert [each.objectives["prior_loss"] for each in found] == [
        pytest.approx(2.0 - 0.1 * math.log(800)),
        pytest.approx(1.9 - 0.1 * math.log(100)),
    ]
    assert found[0].objectives["prior_loss"] < found[1].objectives["prior_loss"]
    assert [each.cost for each in found] == [large.cost, small.cost]
    with pytest.raises(ConfigError, match="but not the cost parameters"):
        PriorEvaluator(Constant(), capacity=0.1).evaluate([SPACE.largest()])


@pytest.mark.parametrize(("gain", "weight", "moves"), [(1.3, 1.0, False), (1.5, 1.0, True), (0.1, 0.0, True)])
def test_a_refinement_leaves_what_the_search_has_found_only_for_a_clear_win(
    tmp_path: Path, gain: float, weight: float, moves: bool
) -> None:
    prior = AlphaPrior([written(tmp_path / "a.safetensors", *[0.8] * 6)])  # another operation costs log 4 = 1.386
    start, other = SPACE.architecture([1] * 6), SPACE.architecture([1, 1, 1, 0, 1, 1])
    path = str(start.save(tmp_path / "architecture.json"))
    search = QueryHistory(SPACE, PriorEvaluator(Constant(other, gain), prior=prior, weight=weight), 100, "prior_loss")
    strategy = Refine(starts=[path])
    strategy.start(SPACE, "prior_loss", seed=0)
    while search.step(strategy, 5):
        pass
    assert search.best[0] == (other if moves else start)


def test_neighbours_are_looked_at_in_the_order_of_the_prior(tmp_path: Path) -> None:
    prior = AlphaPrior([written(tmp_path / "a.safetensors", 0.9, 0.6, 0.8, 0.55, 0.7, 0.95)])
    path = str(SPACE.architecture([1] * 6).save(tmp_path / "architecture.json"))
    strategy = Refine(starts=[path], neighbours=3, order=prior)
    strategy.start(SPACE, "loss", seed=0)
    changed = [a.choices.index(0) for a in strategy.ask(10)[1:]]
    assert changed == [3, 1, 4]


def test_what_is_no_prior_of_the_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="alphas is empty"):
        AlphaPrior([])
    path = written(tmp_path / "a.safetensors", *[0.8] * 6)
    for space in (NASBench201Space(), DARTSSpace()):
        with pytest.raises(ConfigError, match=r"\(6, 2\).*Name searches in the same space"):
            AlphaPrior([path]).evaluate([space.largest()])
    with pytest.raises(ConfigError, match="no alphas, and so no prior"):
        AlphaPrior([path]).evaluate([NASBench101Space().largest()])
    with pytest.raises(ConfigError, match="weight is -1"):
        PriorEvaluator(Constant(), prior=AlphaPrior([path]), weight=-1)
    with pytest.raises(ConfigError, match=r"AlphaPrior gives \['log_prior'\] and \[\], but not the objective loss"):
        PriorEvaluator(AlphaPrior([path]), prior=AlphaPrior([path])).evaluate([SPACE.largest()])
    with pytest.raises(ArtifactError, match=r"no.safetensors"):
        AlphaPrior([str(tmp_path / "no.safetensors")]).evaluate([SPACE.largest()])
    flat = str(write_tensors(tmp_path / "flat.safetensors", {"cell": torch.ones(6, 2)}))
    with pytest.raises(ArtifactError, match=r"shape \(6, 2\); factors"):
        AlphaPrior([flat]).evaluate([SPACE.largest()])
    other = str(write_tensors(tmp_path / "other.safetensors", {"cell": torch.ones(1, 5, 2)}))
    with pytest.raises(ArtifactError, match="different spaces"):
        AlphaPrior([path, other]).evaluate([SPACE.largest()])
