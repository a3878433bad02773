"""The account of a search in which evaluations fail."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from lightning_nas.architecture import Architecture
from lightning_nas.errors import ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluation, Evaluator
from lightning_nas.files.artifacts import read_json
from lightning_nas.spaces.nasbench201.space import NASBench201Space
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.random_search import RandomSearch

SPACE = NASBench201Space()


class Flaky(Evaluator):
    """Fails at some of its calls.

    Args:
        failures: What happens at which call: an error, or the objective.
    """

    def __init__(self, failures: dict[int, BaseException | float]) -> None:
        self.failures = failures
        self.calls = 0

    def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        found = []
        for architecture in architectures:
            self.calls += 1
            happens = self.failures.get(self.calls, float(sum(architecture.choices)))
            if isinstance(happens, BaseException):
                raise happens
            found.append(Evaluation({"val_loss": happens, "other": math.nan}, {"latency": 1.0}))
        return found


def searched(evaluator: Evaluator, budget: int = 12, **arguments: object) -> tuple[QueryHistory, RandomSearch]:
    """A random search, four a generation."""
    history = QueryHistory(SPACE, evaluator, budget, "val_loss", **arguments)  # type: ignore[arg-type]
    strategy = RandomSearch()
    strategy.start(SPACE, "val_loss", seed=0)
    while history.step(strategy, 4):
        pass
    return history, strategy


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), "RuntimeError: CUDA out of memory. Tried"),
        (math.nan, "val_loss is nan."),
        (math.inf, "val_loss is inf."),
        (SystemExit(7), "SystemExit: 7"),
    ],
)
def test_one_failure_is_counted_and_the_search_goes_on(happens: BaseException | float, reason: str) -> None:
    history, strategy = searched(Flaky({6: happens}))
    assert (history.queries, len(history.results), len(history.failures), history.left) == (12, 11, 1, 0)
    (failure,) = history.failures
    assert failure.query == 6
    assert failure.reason.startswith(reason)
    assert list(strategy.failed.values()) == [failure.architecture]
    assert SPACE.key(failure.architecture) not in {**strategy.evaluated, **strategy.fitness}
    history.write(Path(), strategy="RandomSearch")
    written = read_json("history.json", repair="")
    assert (written["queries"], written["failed"], written["finished"]) == (12, 1, True)
    assert len(written["history"]) == 11
    (row,) = written["failures"]
    assert row == {"query": 6, "architecture": SPACE.text(failure.architecture), "reason": failure.reason}
    values = [row["objectives"]["val_loss"] for row in written["history"]]
    best = values.index(min(values))
    assert written["queries_to_best"] == best + 1 + (best >= 5)


def test_costs_that_are_needed_must_be_finite() -> None:
    class Infinite(Evaluator):
        def evaluate(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
            return [Evaluation({"val_loss": 1.0}, {"latency": math.inf, "other": math.nan}) for _ in architectures]

    history, _ = searched(Infinite(), budget=4, costs=["latency"])
    assert {each.reason for each in history.failures} == {"latency is inf."}
    assert not searched(Infinite(), budget=4)[0].failures


def test_too_many_failures_end_the_search_with_their_reason() -> None:
    evaluator = Flaky({3: ValueError("first"), 7: ValueError("second"), 9: ValueError("third")})
    history = QueryHistory(SPACE, evaluator, 12, "val_loss", max_failures=2)
    strategy = RandomSearch()
    strategy.start(SPACE, "val_loss", seed=0)
    history.step(strategy, 4)
    history.step(strategy, 4)
    with pytest.raises(TrainingError, match=r"3 of 12 evaluations failed, more than max_failures = 2; .*third.*Fix"):
        history.step(strategy, 4)
    assert len(history.results) == 9  # the rest of the generation is kept
    assert len(history.failures) == len(strategy.failed) == 3


def test_a_search_in_which_everything_fails_says_so() -> None:
    history, _ = searched(Flaky(dict.fromkeys(range(9), ValueError("never works"))), budget=8)
    with pytest.raises(TrainingError, match="All 8 evaluations failed, the last one: ValueError: never works"):
        history.write(Path())
    history.write_progress(Path())
    assert read_json("history.json", repair="")["failed"] == 8


def test_failures_are_restored() -> None:
    history, _ = searched(Flaky({2: math.nan, 5: ValueError("x")}))
    again = QueryHistory(SPACE, Flaky({}), 12, "val_loss")
    again.load_state_dict(history.state_dict())
    assert again.failures == history.failures
    assert again.rows() == history.rows()
    assert again.left == 0


def test_a_round_in_which_everything_fails_leaves_the_best_of_the_last_one() -> None:
    class Rounds(Flaky):
        def begin(self, round: int) -> None:
            self.version += self.calls == 4

    history, _ = searched(Rounds(dict.fromkeys(range(5, 9), math.nan)), budget=8)
    assert len(history.comparable) == 4
    assert history.best in history.results


def test_a_final_evaluation_that_fails_is_written() -> None:
    history, _ = searched(Flaky({}), budget=4)
    history.write(Path(), final_evaluator=Flaky({1: ValueError("no test images")}))
    written = read_json("history.json", repair="")
    assert written["reported"] == {}
    assert written["report_failure"] == "ValueError: no test images"


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_failures is -1"):
        QueryHistory(SPACE, Flaky({}), 4, max_failures=-1)
