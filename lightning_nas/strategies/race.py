"""A race of finalists by short trainings with fresh seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least, within
from lightning_nas.errors import ArchitectureError, ArtifactError
from lightning_nas.evaluation.base import sign_of
from lightning_nas.files.artifacts import read_json
from lightning_nas.strategies.base import Result, Strategy

LEAST = 3
"""Smallest number of rounds after which the difference of two finalists has an estimate of its error."""


class Race(Strategy):
    """Evaluates finalists in rounds with fresh seeds, adds the evidence up, and drops the worst on the way.

    Every round asks for all finalists that are left. ``Strategy.round`` increases, and a noisy evaluator, such as
    ``ShortTraining``, answers each round with new seeds that all finalists share, so that differences are paired. After
    a round, the finalists with the lowest mean over all rounds so far are dropped (successive halving), but never the
    incumbent, which is the first of ``starts``. The race ends after ``rounds`` rounds, when one finalist is left, or as
    soon as the leader is ahead of every other one with ``confidence``.

    The incumbent wins unless another finalist is ahead of it with ``confidence`` by a one-sided paired t test over at
    least three rounds: a search that chose it by other evidence is overruled only by clear evidence, not by the noise
    of one short training.

    References:
        1. Jamieson, Talwalkar: Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016,
           https://arxiv.org/abs/1502.07943 (successive halving). There the survivors train for longer; here they train
           again, because differences between short trainings are dominated by their seeds.

    Args:
        starts: Paths of the ``architecture.json`` of finished searches, the incumbent first. Without any, the largest
            architecture of the space is the incumbent.
        screened: Path of a ``history.json``, such as the one of a search by ``Screen``, whose best architectures join
            the starts. Where it is null and there are no starts either, random architectures join.
        count: Number of architectures that join, at least 1.
        rounds: Largest number of rounds, at least 3.
        keep: Share of the finalists that stay after a round, greater than 0 and at most 1; at least two stay until the
            last round.
        confidence: Confidence that a lead needs, at least 0.5 (where the sign of the mean decides) and less than 1.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        strategy: {class_path: Race, init_args: {starts: [architecture.json], screened: history.json}}
        evaluator: {class_path: ShortTraining, init_args: {data: ..., steps: 120, online: true}}
        ```
    """

    def __init__(
        self,
        starts: Sequence[str] = (),
        *,
        screened: str | None = None,
        count: int = 8,
        rounds: int = 6,
        keep: float = 0.6,
        confidence: float = 0.9,
    ) -> None:
        at_least(1, count=count)
        at_least(LEAST, rounds=rounds)
        within("(0, 1]", keep=keep)
        within("[0.5, 1)", confidence=confidence)
        self.starts = tuple(starts)
        self.screened = screened
        self.count = count
        self.rounds = rounds
        self.keep = keep
        self.confidence = confidence
        self._clear()

    def _clear(self) -> None:
        self.round = 0
        self.finalists: dict[str, Architecture] = {}
        self.scores: dict[str, list[float]] = {}
        self._left: list[str] = []
        self._due: list[str] = []

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin a new race; see ``Strategy.start``.

        Raises:
            ArtifactError: A file cannot be read.
            ConfigError: A finalist is not an architecture of the space.
        """
        super().start(*args, **kwargs)
        self._clear()
        given = [self.read_start(path) for path in self.starts] or [self.space.largest()]
        if self.screened is not None:
            given += self._best_of(self.screened)
        elif not self.starts:
            given += self.sample_unseen(self.count)
        for architecture in given:
            self.finalists.setdefault(self.space.key(architecture), architecture)
        self.scores = {key: [] for key in self.finalists}
        self._left = list(self.finalists)
        self._due = list(self.finalists)

    def _best_of(self, path: str) -> list[Architecture]:
        """The best architectures of a history, by their last evaluations, that meet the constraints of the space."""
        content = read_json(path, repair="Write it by a search by queries, such as one by Screen.")
        try:
            name = content["objective"]
            values = {tuple(row["choices"]): float(row["objectives"][name]) for row in content["history"]}
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(
                f"{path} has no queries with choices and objectives. Write it by a search by queries, such as one by "
                "Screen."
            ) from None
        sign = -sign_of(name)
        found: dict[str, Architecture] = {}
        for choices in sorted(values, key=lambda each: sign * values[each]):
            try:
                architecture = self.space.architecture(choices)
            except ArchitectureError:
                continue
            found.setdefault(self.space.key(architecture), architecture)
            if len(found) == self.count:
                break
        return list(found.values())

    @property
    def incumbent(self) -> str:
        """Key of the first start."""
        return next(iter(self.finalists))

    def lead(self, key: str, other: str) -> float:
        """Confidence that a finalist is better than another one, from the rounds in which both took part.

        The one-sided confidence of a paired t test; with fewer than three rounds in common, 0.5.

        Args:
            key: Key of the finalist.
            other: Key of the other one.
        """
        both = zip(self.scores[key], self.scores[other], strict=False)  # who is dropped has fewer rounds
        return confidence_above_zero([a - b for a, b in both])

    def ask(self, count: int) -> list[Architecture]:
        """Propose what is left of the round, or the next round; finalists come again in every round."""
        if not self._due and self._left and self._go_on():
            self.round += 1
            self._due = list(self._left)
        return [self.finalists[key] for key in self._due[:count]]

    def _go_on(self) -> bool:
        """Drop finalists after a round, and say whether there is another one."""
        if any(not self.scores[key] for key in self._left):
            return False  # all evaluations of the first round failed
        ranked = sorted(self._left, key=self._mean, reverse=True)
        leader, others = ranked[0], ranked[1:]
        if self.round + 1 >= self.rounds or not others:
            return False
        if all(self.lead(leader, other) >= self.confidence for other in others) and self.round + 1 >= LEAST:
            return False
        size = max(2, math.ceil(self.keep * len(ranked)))
        kept = set(ranked[:size])
        if self.incumbent not in kept:
            kept = {*ranked[: size - 1], self.incumbent}
        self._left = [key for key in self._left if key in kept]
        return True

    def _mean(self, key: str) -> float:
        return statistics.fmean(self.scores[key])

    def tell(self, results: Sequence[Result]) -> None:
        """Learn evaluations of the round; see ``Strategy.tell``."""
        super().tell(results)
        for architecture, _ in results:
            key = self.space.key(architecture)
            if key in self._due:
                self._due.remove(key)
                self.scores[key].append(self.fitness[key])

    def tell_failed(self, architectures: Sequence[Architecture]) -> None:
        """Drop finalists whose evaluation failed; the next one becomes the incumbent if it was that."""
        super().tell_failed(architectures)
        for key in self.failed:
            self.finalists.pop(key, None)
            self.scores.pop(key, None)
        self._left = [key for key in self._left if key in self.finalists]
        self._due = [key for key in self._due if key in self.finalists]

    def winner(self) -> Architecture | None:
        """What ``best`` returns, once anything is known."""
        return self.best() if self.fitness else None

    def best(self) -> Architecture:
        """The leader if it is ahead of the incumbent with ``confidence``, else the incumbent."""
        seen = [key for key in self._left if self.scores[key]]
        if not seen:
            return super().best()
        leader = max(seen, key=self._mean)
        if leader != self.incumbent and self.lead(leader, self.incumbent) < self.confidence:
            leader = self.incumbent
        return self.finalists[leader]

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed search needs; see ``Strategy.state_dict``."""
        return {
            **super().state_dict(),
            "round": self.round,
            "finalists": [list(a.choices) for a in self.finalists.values()],
            "scores": list(self.scores.values()),
            "left": [list(self.finalists[key].choices) for key in self._left],
            "due": [list(self.finalists[key].choices) for key in self._due],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; see ``Strategy.load_state_dict``."""
        super().load_state_dict(state)
        self.round = state["round"]
        finalists = [self.space.architecture(choices) for choices in state["finalists"]]
        self.finalists = {self.space.key(a): a for a in finalists}
        self.scores = {key: list(values) for key, values in zip(self.finalists, state["scores"], strict=True)}
        self._left = [self.space.key(self.space.architecture(choices)) for choices in state["left"]]
        self._due = [self.space.key(self.space.architecture(choices)) for choices in state["due"]]


def confidence_above_zero(differences: Sequence[float]) -> float:
    """One-sided confidence of a t test that the mean of differences is above 0; 0.5 with fewer than three.

    Args:
        differences: The differences, one per pair.
    """
    if len(differences) < LEAST:
        return 0.5
    from scipy.stats import t

    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if spread == 0:
        return 0.5 if mean == 0 else float(mean > 0)
    return float(t.cdf(mean / (spread / math.sqrt(len(differences))), len(differences) - 1))
