"""A rugged objective, and searches that maximise it."""

from collections.abc import Sequence
from typing import Any

from lightning_nas.architecture import Architecture
from lightning_nas.evaluation.base import Evaluation
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.base import Strategy

TWO = NASBench201Space(("skip_connect", "nor_conv_3x3"))  # 64 architectures
FIVE = NASBench201Space()


def value(architecture: Architecture) -> float:
    """A rugged objective without ties."""
    c = architecture.choices
    return sum(v * 1.01**i for i, v in enumerate(c)) + 2.5 * (c[0] == c[5]) - 1.5 * (c[1] == c[4])


def tell(strategy: Strategy, architectures: Sequence[Architecture]) -> None:
    strategy.tell([(a, Evaluation({"accuracy": value(a)})) for a in architectures])


def searched(strategy: Strategy, queries: int, count: int = 5, space: Any = FIVE, seed: int = 0) -> list[Architecture]:
    """All architectures that a strategy proposes, in order."""
    strategy.start(space, seed=seed)
    found: list[Architecture] = []
    while len(found) < queries and (asked := strategy.ask(min(count, queries - len(found)))):
        found += asked
        tell(strategy, asked)
    return found
