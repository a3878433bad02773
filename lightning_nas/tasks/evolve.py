"""Search by proposals: a strategy asks, an evaluator answers."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_nas.data.steps import StepsDataModule
from lightning_nas.errors import ConfigError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.evolution.base import Strategy
from lightning_nas.evolution.search import Search
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.limited import LimitedSpace
from lightning_nas.tasks.common import output_folder


class EvolveTask(LightningModule):
    """Finds the best architecture among those that a strategy asks for, with a budget of queries.

    A training step is a generation, counted by ``StepsDataModule``: the strategy asks, the evaluator evaluates,
    the strategy is told. Only networks
    that were not seen before are asked for, so that each is one query. The search ends when the budget is spent, or
    when the strategy has nothing left to ask for. Checkpoints hold all of it; every generation can be one. At the end
    ``architecture.json`` holds the best architecture and ``history.json`` every evaluation in order.

    Attributes:
        search: The account of all queries.
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
        if generation < 1:
            raise ConfigError(f"generation is {generation}; it must be at least 1 architecture.")
        limited = LimitedSpace(space, evaluator.costs, limits) if limits else space
        self.search = Search(limited, evaluator, budget, objective)
        self.strategy = strategy
        self.generation = generation
        self.report = report
        self.seed = seed
        self.output_dir = output_dir
        self.outputs: dict[str, list[Path]] = {}

    def prepare_data(self) -> None:
        """Download what the evaluators need."""
        for evaluator in self._evaluators:
            evaluator.prepare_data()

    @property
    def _evaluators(self) -> list[Evaluator]:
        return [self.search.evaluator] if self.report is None else [self.search.evaluator, self.report]

    def setup(self, stage: str) -> None:
        """Begin the search; a checkpoint's replaces it.

        Raises:
            ConfigError: There are several processes or epochs, or other data.
        """
        trainer = self.trainer
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        if not isinstance(data, StepsDataModule):
            raise ConfigError(
                f"{type(self).__name__} needs lightning_nas.data.steps.StepsDataModule as data; it got "
                f"{type(data).__name__}. Images are the evaluator's."
            )
        if trainer.world_size > 1 or trainer.max_epochs != 1:
            raise ConfigError(
                f"There are {trainer.world_size} processes and max_epochs is {trainer.max_epochs}; a search is one "
                "epoch of one process. Use --trainer.devices 1 --trainer.num_nodes 1 --trainer.max_epochs 1."
            )
        for evaluator in self._evaluators:
            evaluator.to(trainer.strategy.root_device)
        self.search.results = []
        self.strategy.start(self.search.space, self.search.objective, self.seed)

    def configure_optimizers(self) -> None:
        """There is nothing to train here. Lightning counts a step a generation all the same, and keeps checkpoints."""

    # -- a generation -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Ask, evaluate, tell."""
        start = time.perf_counter()
        with torch.autocast(self.device.type, enabled=False):
            asked = self.search.step(self.strategy, self.generation)
        if not asked or not self.search.left:
            self.trainer.should_stop = True
        objective = self.search.objective
        values = {f"best/{objective}": self.search.best[1].objectives[objective]}
        values |= {"queries": float(len(self.search.results)), "seconds": time.perf_counter() - start}
        self.log_dict(values, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)

    def on_fit_end(self) -> None:
        """Write what was found; after the last checkpoint, so that a run that stops here need not be repeated."""
        folder = output_folder(self.trainer, self.output_dir)
        name = type(self.strategy).__name__
        self.outputs = self.search.write(folder, self.report, strategy=name, seed=self.seed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the strategy's state and the account."""
        checkpoint["search"] = {"strategy": self.strategy.state_dict(), **self.search.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back.

        Raises:
            CheckpointError: The checkpoint is of a search for another objective.
        """
        state: Any = checkpoint["search"]
        self.search.load_state_dict(state)
        self.strategy.load_state_dict(state["strategy"])
