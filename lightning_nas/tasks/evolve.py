"""Search by queries: a strategy asks, an evaluator answers."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.data.dummy import DummyDataModule
from lightning_nas.errors import ConfigError, TrainingError
from lightning_nas.evaluation.base import Evaluator, evaluate_each, sign_of
from lightning_nas.evaluation.supernet import SupernetEvaluator
from lightning_nas.evaluation.wrapper import innermost
from lightning_nas.files.artifacts import write_json
from lightning_nas.metrics.cost import CostSource
from lightning_nas.metrics.ranking import kendall_tau
from lightning_nas.report.front import Front
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.strategies.base import Result, Strategy
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.nsga import FrontStrategy
from lightning_nas.strategies.shifting import Shifting
from lightning_nas.tasks.base import Task
from lightning_nas.tasks.common import kept, last_good, output_folder
from lightning_nas.tasks.optimization import build_optimizer


class EvolveTask(Task):
    """Searches for the best architecture by queries: a strategy proposes architectures, an evaluator evaluates them.

    A training step is one generation: the strategy asks, the evaluator evaluates, the strategy is told.
    ``DummyDataModule`` supplies the steps. Most strategies propose only architectures that have not been evaluated, so
    that every proposal is one query. The search ends when the budget is spent, or when the strategy has nothing left to
    propose. After every generation, ``history.json`` holds every query in order, and ``last.ckpt`` the whole search,
    unless the trainer has a ``ModelCheckpoint`` with arguments of its own, or none is wanted. At the end,
    ``architecture.json`` holds the best architecture.

    An evaluation that fails, by an error or because its objective is not finite, costs one query, and is recorded with
    its reason; see ``QueryHistory``.

    With ``costs_to_minimise``, ``front.json`` holds the Pareto front: the architectures that no other evaluated one
    dominates, where one dominates another if it is nowhere worse in the objective and these costs, and better in at
    least one of them. This works with every strategy; ``NSGA2`` searches for the whole front, most others for the best
    objective alone.

    With ``shifting``, the innermost evaluator is a ``SupernetEvaluator``, whose supernet is trained on every generation
    before the generation is scored, or on what ``Strategy.training_paths`` returns. At the end
    ``supernet.safetensors`` holds its weights. Scores from different weights are not comparable: the best architecture
    and the front are then those of the last generation.

    Attributes:
        history: The query history of the search.
        outputs: Files that the run has written, by kind of artifact.

    Args:
        space: The search space.
        strategy: Proposes architectures.
        evaluator: Evaluates them.
        budget: Number of queries in the whole search, at least 1.
        generation_size: Number of architectures per generation, at least 1.
        objective: Name of the evaluator's objective that decides; lower is better where the name ends in ``loss``.
        constraints: Largest values of costs by the name of the cost, for architectures to be proposed at all; none by
            default. See ``ConstrainedSpace``.
        costs: Knows the costs that constraints name, such as ``NetworkCosts`` for those of the final network; by
            default the evaluator. A resumed search measures them again: for latencies use ``CostEvaluator``, which
            keeps them.
        costs_to_minimise: Names of costs for the Pareto front; without any, no front is written.
        shifting: How a supernet is trained during the search; null leaves it unchanged.
        reference: Evaluator that knows the true performance, such as a table. The search does not see it; the log has
            Kendall's tau between its one objective and the scores of every generation. Null leaves this out.
        final_evaluator: Evaluates the best architecture at the end, such as by test accuracy, for
            ``architecture.json``; null leaves this out.
        seed: Seed of the strategy.
        output_dir: Folder for the files; by default that of the run's logger.
        max_failures: Number of queries that may fail, at least 0, before the search ends with an error. The default
            forgives single failures and soon ends a search whose evaluator cannot work.

    Raises:
        ConfigError: A number is too small, ``shifting`` has no supernet to train, or a strategy that searches for a
            front has no costs to minimise.

    Example:
        ```yaml
        model:
          class_path: EvolveTask
          init_args:
            space: NASBench201Space
            strategy: RegularizedEvolution
            evaluator:
              class_path: TableLookup
              init_args: {table: {class_path: NASBench201Table, init_args: {path: nasbench201.npz}}}
            budget: 150
        data: DummyDataModule
        ```
    """

    writes: tuple[str, ...] = ("architecture.json", "history.json")
    metrics_logged = (
        *("best/*", "mean/*", "queries", "seconds", "diversity"),
        *("front/size", "truth/kendall_tau", "train/loss"),
    )
    one_process = True
    ends_by = "the budget"
    clip_option = "--model.shifting.clip_norm"

    def __init__(
        self,
        space: SearchSpace,
        *,
        strategy: Strategy,
        evaluator: Evaluator,
        budget: int = 150,
        generation_size: int = 10,
        objective: str = "accuracy",
        constraints: Mapping[str, float] | None = None,
        costs: CostSource | None = None,
        costs_to_minimise: Sequence[str] = (),
        shifting: Shifting | None = None,
        reference: Evaluator | None = None,
        final_evaluator: Evaluator | None = None,
        seed: int = 0,
        output_dir: str | None = None,
        max_failures: int = 10,
    ) -> None:
        super().__init__()
        at_least(1, generation_size=generation_size)
        self.space = space
        constrained = ConstrainedSpace(space, (costs or evaluator).costs, constraints) if constraints else space
        self.history = QueryHistory(constrained, evaluator, budget, objective, costs_to_minimise, max_failures)
        self.strategy = strategy
        self.generation_size = generation_size
        self.costs_to_minimise = tuple(costs_to_minimise)
        if isinstance(strategy, FrontStrategy):
            if not costs_to_minimise:
                raise ConfigError(
                    f"{type(strategy).__name__} searches for a front, but costs_to_minimise is empty. Name costs of "
                    "the evaluations there, such as [parameters], or use another strategy."
                )
            strategy.costs = self.costs_to_minimise
        self.shifting = shifting
        if costs_to_minimise:
            self.writes = (*self.writes, "front.json")
        if shifting is not None:
            self.writes = (*self.writes, "supernet.safetensors", "supernet.json")
        self.scores: Any = innermost(evaluator)
        if shifting is not None and not isinstance(self.scores, SupernetEvaluator):
            raise ConfigError(
                f"shifting trains a supernet; the innermost evaluator is {type(self.scores).__name__}. Use "
                "SupernetEvaluator, or leave shifting out."
            )
        self.automatic_optimization = shifting is None
        self.supernet: nn.Module | None = None
        self.reference = reference
        self.final_evaluator = final_evaluator
        self.seed = seed
        self.output_dir = output_dir
        self.outputs: dict[str, list[Path]] = {}

    @property
    def trains(self) -> bool:
        """Whether a supernet is trained."""
        return self.shifting is not None

    def prepare_data(self) -> None:
        """Download what the evaluators need."""
        for evaluator in self._evaluators:
            evaluator.prepare_data()

    @property
    def _evaluators(self) -> list[Evaluator]:
        return [each for each in (self.history.evaluator, self.reference, self.final_evaluator) if each is not None]

    def configure_model(self) -> None:
        """Read the supernet that is trained, if any.

        Raises:
            ArtifactError: The file of the supernet cannot be used.
            ConfigError: The supernet is of another space.
            DataError: The supernet is for other images or classes.
        """
        if self.shifting is None or self.supernet is not None:
            return
        loaded = self.scores.loaded
        if loaded.space.spec() != self.space.spec():
            raise ConfigError(
                f"The supernet is of {loaded.space.spec()}, the search of {self.space.spec()}. Use the space that the "
                "supernet was trained in."
            )
        self.supernet = loaded.network

    def setup(self, stage: str) -> None:
        """Begin a new search, which a checkpoint replaces by its own.

        Raises:
            ConfigError: There are several processes or epochs, or the data are not a ``DummyDataModule``.
        """
        trainer = self.trainer
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        if not isinstance(data, DummyDataModule):
            raise ConfigError(
                f"{type(self).__name__} needs DummyDataModule as data; it got {type(data).__name__}. Images belong to "
                "the evaluator."
            )
        if trainer.world_size > 1 or trainer.max_epochs != 1:
            raise ConfigError(
                f"There are {trainer.world_size} processes and max_epochs is {trainer.max_epochs}; a search is one "
                "epoch of one process. Use --trainer.devices 1 --trainer.num_nodes 1 --trainer.max_epochs 1."
            )
        for evaluator in self._evaluators:
            evaluator.to(trainer.strategy.root_device)
        self.history.clear()
        self.strategy.start(self.history.space, self.history.objective, self.seed)

    def teardown(self, stage: str) -> None:
        """Close the evaluators."""
        for evaluator in self._evaluators:
            evaluator.close()

    def configure_optimizers(self) -> Any:
        """The optimizer of the supernet. Without one, Lightning still counts one step per generation."""
        shifting = self.shifting
        return None if shifting is None else build_optimizer(shifting.optimizer, self.scores, "shifting.optimizer")

    def configure_callbacks(self) -> list[Callback]:
        """Save a checkpoint after every generation, instead of after every epoch as Lightning does by default.

        Returns:
            Callbacks of ``Task``, and the ``ModelCheckpoint`` that takes the place of Lightning's.

        Raises:
            ConfigError: An option of the trainer does not fit.
        """
        callbacks = super().configure_callbacks()
        keepers = [c for c in self.trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        default = ModelCheckpoint()
        names = ("state_key", "dirpath", "filename", "save_last", "save_top_k")
        if len(keepers) != 1 or any(getattr(keepers[0], name) != getattr(default, name) for name in names):
            return callbacks
        return [*callbacks, ModelCheckpoint(filename="last", every_n_train_steps=1)]

    # -- a generation -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Run one generation."""
        start = time.perf_counter()
        with torch.autocast(self.device.type, enabled=False):
            try:
                asked = self.history.step(
                    self.strategy, self.generation_size, None if self.shifting is None else self._train
                )
            finally:
                if self.history.queries:
                    self.history.write_progress(self._folder, **self._provenance)
        if not asked or not self.history.left:
            self.trainer.should_stop = True
        values = {"queries": float(self.history.queries), "seconds": time.perf_counter() - start}
        if self.history.failures:
            values["failed"] = float(len(self.history.failures))
        if self.history.results or not asked:
            objective = self.history.objective
            values[f"best/{objective}"] = self.history.best[1].objectives[objective]
            values |= self._generation_values([result for result in asked if result[1].failure is None])
            if self.costs_to_minimise:
                values["front/size"] = float(len(self._front.members))
        self.log_dict(values, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)
        self._show_total(batch_idx + 1)

    def _show_total(self, done: int) -> None:
        """End the progress bar where the budget ends: the data have steps for any search."""
        bar = getattr(self.trainer.progress_bar_callback, "train_progress_bar", None)
        if bar is not None:
            bar.total = done + -(-self.history.left // self.generation_size)

    @property
    def _folder(self) -> Path:
        """The folder of the artifacts."""
        return output_folder(self.trainer, self.output_dir)

    @property
    def _provenance(self) -> dict[str, Any]:
        """What the artifacts say about their origin."""
        return {"strategy": type(self.strategy).__name__, "seed": self.seed}

    @property
    def _front(self) -> Front:
        """The Pareto front of the comparable results."""
        return Front(self.history.comparable, self.history.objective, self.costs_to_minimise)

    def _train(self, asked: Sequence[Architecture]) -> None:
        """Train the supernet on a generation."""
        assert self.shifting is not None
        paths = self.strategy.training_paths() or asked
        number = self.history.queries
        loss = self.shifting.train(self.scores, self.optimizers(), paths, number, self.manual_backward)
        if not math.isfinite(loss):
            raise TrainingError(
                f"The supernet's loss became {loss} after {number} evaluations. {last_good(self.trainer)} Lower the "
                "learning rate, or clip gradients."
            )
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)

    def _generation_values(self, asked: Sequence[Result]) -> dict[str, float]:
        """Mean objective and diversity of a generation, and Kendall's tau with the reference."""
        if len(asked) < 2:
            return {}
        objective = self.history.objective
        scores = [evaluation.objectives[objective] for _, evaluation in asked]
        choices = torch.tensor([architecture.choices for architecture, _ in asked])
        differing = (choices.unsqueeze(0) != choices.unsqueeze(1)).double().mean(2)
        values = {f"mean/{objective}": sum(scores) / len(scores)}
        values["diversity"] = float(differing.sum() / (len(asked) * (len(asked) - 1)))
        if self.reference is not None:
            sign = sign_of(objective)
            known = evaluate_each(self.reference, [a for a, _ in asked])
            pairs = [
                (sign * score, next(iter(each.objectives.values())))
                for score, each in zip(scores, known, strict=True)
                if each.failure is None
            ]
            if len(pairs) > 1:
                values["truth/kendall_tau"] = kendall_tau(*map(list, zip(*pairs, strict=True)))
        return values

    def on_fit_end(self) -> None:
        """Write the artifacts, after the last checkpoint, so that a run that stops here need not be repeated."""
        folder = self._folder
        self.outputs = self.history.write(folder, self.final_evaluator, **self._provenance)
        if self.costs_to_minimise:
            found = {**self._provenance, **self._front.to_dict()}
            self.outputs["front"] = [write_json(folder / "front.json", found)]
        if self.shifting is not None:
            info = {**self.scores.loaded.info, "shifted_generations": self.scores.version}
            path = replace(self.scores.loaded, info=info).save(folder / "supernet.safetensors")
            self.outputs["supernet"] = [path, path.with_suffix(".json")]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the search."""
        checkpoint["search"] = {"strategy": self.strategy.state_dict(), **self.history.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the search.

        Raises:
            CheckpointError: The checkpoint is of a search for another objective.
        """
        state: Any = kept(self, checkpoint, "search")
        self.history.load_state_dict(state)
        self.strategy.load_state_dict(state["strategy"])
