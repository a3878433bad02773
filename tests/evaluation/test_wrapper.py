"""What wrappers leave to the wrapped evaluator."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightning_nas.architecture import Architecture
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.evaluation.wrapper import EvaluatorWrapper, innermost
from lightning_nas.spaces.nasbench201.space import NASBench201Space

CELL = NASBench201Space().largest()


class Noted(Evaluator):
    """Notes every call."""

    stochastic = False

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def to(self, device: torch.device) -> None:
        self.calls.append(device.type)

    def begin(self, round: int) -> None:
        self.version = round
        self.calls.append(round)

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        return {"dollars": 2.0}

    def state_dict(self) -> dict[str, Any]:
        return {"calls": list(self.calls)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]

    def data_modules(self) -> list[Any]:
        return ["data"]

    def check(self) -> None:
        self.calls.append("check")

    def close(self) -> None:
        self.calls.append("close")

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        return [Evaluation({"accuracy": 0.5}) for _ in architectures]


class Plain(EvaluatorWrapper):
    """Adds nothing."""

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        return self.evaluator.evaluate(architectures)


def test_everything_is_left_to_the_wrapped_evaluator() -> None:
    inner = Noted()
    outer = Plain(Plain(inner))
    outer.prepare_data()
    outer.check()
    assert outer.data_modules() == ["data"]
    outer.to(torch.device("meta"))
    outer.begin(3)
    outer.close()
    assert inner.calls == ["prepare_data", "check", "meta", 3, "close"]
    assert (outer.version, outer.stochastic) == (3, False)
    assert outer.costs(CELL) == {"dollars": 2.0}
    assert outer.state_dict() == {"calls": inner.calls}
    outer.load_state_dict({"calls": ["old"]})
    assert inner.calls == ["old"]


def test_the_innermost_evaluator_is_found_at_any_depth() -> None:
    inner = Noted()
    assert innermost(inner) is inner
    assert innermost(Plain(Plain(Plain(inner)))) is inner
