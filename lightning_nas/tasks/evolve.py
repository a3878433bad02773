"""Search by proposals: a strategy asks, an evaluator answers."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_nas.artifacts import write_json
from lightning_nas.data.generations import GenerationsDataModule
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.evolution.base import Strategy
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.limited import LimitedSpace
from lightning_nas.tasks.common import output_folder


class EvolveTask(LightningModule):
    """Finds the best architecture among those that a strategy asks for, with a budget of queries.

    A training step is a generation, counted by ``GenerationsDataModule``: the strategy asks, the evaluator evaluates,
    the strategy is told. Only networks
    that were not seen before are asked for, so that each is one query. The search ends when the budget is spent, or
    when the strategy has nothing left to ask for. Checkpoints hold all of it; every generation can be one. At the end
    ``architecture.json`` holds the best architecture and ``history.json`` every evaluation in order.

    Attributes:
        history: One entry a query: the architecture's text, its objectives and its cost.
        outputs: Files that the run has written, by the kind of artifact.

    Args:
        space: What is searched.
        strategy: What proposes.
        evaluator: What evaluates.
        budget: Queries in all, at least 1.
        generation: Architectures a generation, at least 1.
        objective: Which of the evaluator's objectives decides; lower is better where the name ends in ``loss``.
        limits: The most that an architecture may cost, by the name of the cost; see ``LimitedSpace``.
        report: What looks at the one architecture that was found, such as by test accuracies; none if null.
        seed: Of the strategy.
        output_dir: Where the files go; by default the folder of this run's logger.

    Raises:
        ConfigError: ``budget`` or ``generation`` is below 1.
    """

    def __init__(
        self,
        space: SearchSpace,
        strategy: Strategy,
        evaluator: Evaluator,
        budget: int = 150,
        generation: int = 10,
        objective: str = "accuracy",
        limits: Mapping[str, float] | None = None,
        report: Evaluator | None = None,
        seed: int = 0,
        output_dir: str | None = None,
    ) -> None:
        super().__init__()
        if budget < 1 or generation < 1:
            raise ConfigError(f"budget is {budget} and generation {generation}; both must be at least 1.")
        self.space = LimitedSpace(space, evaluator.costs, limits) if limits else space
        self.strategy = strategy
        self.evaluator = evaluator
        self.budget = budget
        self.generation = generation
        self.objective = objective
        self.report = report
        self.seed = seed
        self.output_dir = output_dir
        self.history: list[dict[str, Any]] = []
        self.outputs: dict[str, list[Path]] = {}

    def prepare_data(self) -> None:
        """Download what the evaluators need."""
        for evaluator in self._evaluators:
            evaluator.prepare_data()

    @property
    def _evaluators(self) -> list[Evaluator]:
        return [self.evaluator] if self.report is None else [self.evaluator, self.report]

    def setup(self, stage: str) -> None:
        """Begin the search; a checkpoint's replaces it.

        Raises:
            ConfigError: There are several processes or epochs, or other data.
        """
        trainer = self.trainer
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        if not isinstance(data, GenerationsDataModule):
            raise ConfigError(
                f"{type(self).__name__} needs lightning_nas.data.generations.GenerationsDataModule as data; it got "
                f"{type(data).__name__}. Images are the evaluator's."
            )
        if trainer.world_size > 1 or trainer.max_epochs != 1:
            raise ConfigError(
                f"There are {trainer.world_size} processes and max_epochs is {trainer.max_epochs}; a search is one "
                "epoch of one process. Use --trainer.devices 1 --trainer.num_nodes 1 --trainer.max_epochs 1."
            )
        for evaluator in self._evaluators:
            evaluator.to(trainer.strategy.root_device)
        self.history = []
        self.strategy.start(self.space, self.objective, self.seed)

    def configure_optimizers(self) -> None:
        """There is nothing to train here. Lightning counts a step a generation all the same, and keeps checkpoints."""

    # -- a generation -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Ask, evaluate, tell."""
        start = time.perf_counter()
        asked = self.strategy.ask(min(self.generation, self.budget - len(self.history)))
        with torch.autocast(self.device.type, enabled=False):
            results = list(zip(asked, self.evaluator.evaluate(asked) if asked else [], strict=True))
        self.strategy.tell(results)
        self.history += [
            {"architecture": self.space.text(a), "objectives": dict(e.objectives), "cost": dict(e.cost)}
            for a, e in results
        ]
        if not asked or len(self.history) >= self.budget:
            self.trainer.should_stop = True
        if not self.history:
            raise ConfigError(
                f"{type(self.strategy).__name__} has nothing to ask for: the space has no architecture for it. Use a "
                "larger space or higher limits."
            )
        best = self.best["objectives"][self.objective]
        values = {f"best/{self.objective}": best, "queries": float(len(self.history))}
        values["seconds"] = time.perf_counter() - start
        self.log_dict(values, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)

    @property
    def best(self) -> dict[str, Any]:
        """The entry of ``history`` with the best architecture; of equals the first."""
        return self.history[self._best]

    @property
    def _best(self) -> int:
        sign = -1.0 if self.objective.endswith("loss") else 1.0
        return max(range(len(self.history)), key=lambda i: sign * self.history[i]["objectives"][self.objective])

    # -- the end ------------------------------------------------------------------------------------------------------

    def found(self) -> dict[str, Any]:
        """How the best architecture was found, as JSON values."""
        seconds = [row["cost"].get("seconds") for row in self.history]
        return {
            "strategy": type(self.strategy).__name__,
            "evaluator": type(self.evaluator).__name__,
            "objective": self.objective,
            "queries": len(self.history),
            "queries_to_best": self._best + 1,
            "evaluation_seconds": None if None in seconds else sum(seconds),
            "seed": self.seed,
            **self.best,
        }

    def on_fit_end(self) -> None:
        """Write what was found; after the last checkpoint, so that a run that stops here need not be repeated."""
        folder = output_folder(self.trainer, self.output_dir)
        found, best = self.found(), self.strategy.best()
        if self.report is not None:
            (reported,) = self.report.evaluate([best])
            found["reported"] = dict(reported.objectives)
        written = best.save(folder / "architecture.json", **found)
        history = write_json(folder / "history.json", {**found, "history": self.history})
        self.outputs = {"architecture": [written], "history": [history]}

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the strategy's and the evaluator's state, and the history."""
        checkpoint["search"] = {
            "strategy": self.strategy.state_dict(),
            "evaluator": self.evaluator.state_dict(),
            "history": [dict(row) for row in self.history],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back.

        Raises:
            CheckpointError: The checkpoint is of another search.
        """
        search: Any = checkpoint.get("search")
        if search is None:
            raise CheckpointError("The checkpoint holds no search by proposals. Use one of this task.")
        self.strategy.load_state_dict(search["strategy"])
        self.evaluator.load_state_dict(search["evaluator"])
        self.history = [dict(row) for row in search["history"]]
