"""What all strategies do with evaluations."""

import pytest
import torch

from lightning_nas.errors import CheckpointError, ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.strategies.random_search import RandomSearch
from tests.strategies.rugged import TWO


def test_a_loss_is_minimised_and_equals_keep_the_first() -> None:
    strategy = RandomSearch()
    strategy.start(TWO, objective="loss")
    asked = strategy.ask(4)
    strategy.tell([(a, Evaluation({"loss": v})) for a, v in zip(asked, [2.0, 1.0, 1.0, 3.0], strict=True)])
    assert strategy.best() == asked[1]


def test_what_a_strategy_cannot_learn_from_is_refused() -> None:
    strategy = RandomSearch()
    strategy.start(TWO)
    with pytest.raises(ConfigError, match="Nothing has been evaluated"):
        strategy.best()
    (asked,) = strategy.ask(1)
    with pytest.raises(ConfigError, match=r"\['loss'\], not 'accuracy'"):
        strategy.tell([(asked, Evaluation({"loss": 1.0}))])
    with pytest.raises(TrainingError, match="accuracy nan"):
        strategy.tell([(asked, Evaluation({"accuracy": float("nan")}))])
    state = strategy.state_dict()
    strategy.start(TWO, objective="loss")
    with pytest.raises(CheckpointError, match="'accuracy', this one for 'loss'"):
        strategy.load_state_dict(state)
    assert torch.equal(strategy.state_dict()["generator"], strategy.generator.get_state())
