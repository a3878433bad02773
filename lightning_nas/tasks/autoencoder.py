"""Search with an auto-encoder of architectures: TNAO (He et al., IJCNN 2023)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_nas.checks import at_least, greater_than
from lightning_nas.data.dummy import DummyDataModule
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.base import Evaluator, sign_of
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.predictors.rank_losses import PairwiseLogistic, RankLoss
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.strategies.base import Strategy
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.random_search import RandomSearch
from lightning_nas.strategies.tnao import CodeSearch
from lightning_nas.tasks.base import Task
from lightning_nas.tasks.common import kept, output_folder
from lightning_nas.tasks.optimization import configure


class AutoEncoderTask(Task):
    """Evaluates random architectures, trains an auto-encoder on them, and evaluates what it then finds (TNAO).

    Training and search are separate stages:

    1. ``samples`` architectures are drawn uniformly from the whole space and evaluated.
    2. The auto-encoder learns to reconstruct these and ``unlabelled`` other random architectures, and to score the
       former by rank. A step, which ``DummyDataModule`` supplies, minimises ``cross-entropy + rank_weight * rank loss``
       over ``batch_size`` samples and as many other architectures.
    3. ``strategy`` searches for codes with high scores, without any query, and the architectures that these decode to
       spend the rest of the budget.

    At the end ``architecture.json`` holds the best architecture, and ``history.json`` every query. This is a
    reconstruction: of the paper only the abstract is public.

    References:
        1. He, Hou, Dong, Feng: Two-stage Neural Architecture Optimization with Separated Training and Search, IJCNN
           2023, https://doi.org/10.1109/IJCNN54540.2023.10191955

    Attributes:
        history: The query history of the search.
        outputs: Files that the run has written, by kind of artifact.

    Args:
        space: The search space.
        evaluator: Evaluates architectures.
        strategy: Searches for codes.
        optimizer: Optimizer of the auto-encoder.
        scheduler: Learning rate scheduler, stepped after every training step; null keeps the rate constant.
        samples: Number of random architectures that are evaluated first, at least 2.
        budget: Number of queries in the whole search, more than ``samples``.
        unlabelled: Number of random architectures that are reconstructed only, at least 1.
        batch_size: Number of samples per step, at least 2; all where there are fewer.
        rank_loss: Loss of the scores; by default ``PairwiseLogistic`` over all pairs.
        rank_weight: Weight of the rank loss, greater than 0.
        width: Width of the Transformer layers, divisible by ``heads``.
        code: Number of dimensions of a code, at least 1.
        layers: Number of layers of the encoder, and of the decoder, at least 1.
        heads: Number of attention heads, at least 1.
        dropout: Probability of dropout of a code's dimensions in training, in [0, 1).
        objective: Name of the evaluator's objective that decides; lower is better where the name ends in ``loss``.
        constraints: Largest values of costs by the name of the cost, for architectures to be proposed at all; none by
            default. See ``ConstrainedSpace``.
        final_evaluator: Evaluates the best architecture at the end, such as by test accuracy, for
            ``architecture.json``; null leaves this out.
        seed: Seed of all random choices.
        output_dir: Folder for the files; by default that of the run's logger.
        max_failures: Number of queries that may fail, at least 0, before the search ends with an error; see
            ``QueryHistory``.

    Raises:
        ConfigError: A number is out of its range.

    Example:
        ```yaml
        model:
          class_path: AutoEncoderTask
          init_args:
            space: NASBench201Space
            evaluator:
              class_path: TableLookup
              init_args: {table: {class_path: NASBench201Table, init_args: {path: nasbench201.npz}}}
            strategy: SwarmSearch
            optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1.0e-3}}
            samples: 100
            budget: 150
        data: {class_path: DummyDataModule, init_args: {steps: 1000}}
        ```
    """

    writes = ("architecture.json", "history.json")
    metrics_logged = ("train/reconstruction", "train/rank")
    one_process = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        evaluator: Evaluator,
        strategy: CodeSearch,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None = None,
        samples: int = 200,
        budget: int = 300,
        unlabelled: int = 10000,
        batch_size: int = 100,
        rank_loss: RankLoss | None = None,
        rank_weight: float = 1.0,
        width: int = 64,
        code: int = 64,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.1,
        objective: str = "accuracy",
        constraints: Mapping[str, float] | None = None,
        final_evaluator: Evaluator | None = None,
        seed: int = 0,
        output_dir: str | None = None,
        max_failures: int = 10,
    ) -> None:
        super().__init__()
        at_least(2, samples=samples, batch_size=batch_size)
        at_least(1, unlabelled=unlabelled)
        greater_than(0, rank_weight=rank_weight)
        if budget <= samples:
            raise ConfigError(f"budget is {budget}; it must be more than samples, {samples}. Raise it.")
        constrained = ConstrainedSpace(space, evaluator.costs, constraints) if constraints else space
        self.history = QueryHistory(constrained, evaluator, budget, objective, max_failures=max_failures)
        self.strategy = strategy
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.samples = samples
        self.unlabelled = unlabelled
        self.batch_size = batch_size
        self.rank_loss = rank_loss or PairwiseLogistic()
        self.rank_weight = rank_weight
        self.final_evaluator = final_evaluator
        self.seed = seed
        self.output_dir = output_dir
        self.outputs: dict[str, list[Path]] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "autoencoder"))
            self.autoencoder = ArchitectureAutoEncoder(
                space.num_values,
                tokens=space.tokens,
                width=width,
                code=code,
                layers=layers,
                heads=heads,
                dropout=dropout,
            )

    def prepare_data(self) -> None:
        """Download what the evaluators need."""
        for evaluator in self._evaluators:
            evaluator.prepare_data()

    @property
    def _evaluators(self) -> list[Evaluator]:
        return (
            [self.history.evaluator] if self.final_evaluator is None else [self.history.evaluator, self.final_evaluator]
        )

    def setup(self, stage: str) -> None:
        """Begin a new search, which a checkpoint replaces by its own.

        Raises:
            ConfigError: There are several processes, or the data are not a ``DummyDataModule``.
        """
        trainer = self.trainer
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        if not isinstance(data, DummyDataModule):
            raise ConfigError(
                f"{type(self).__name__} needs DummyDataModule as data; it got {type(data).__name__}. Images belong to "
                "the evaluator."
            )
        if trainer.world_size > 1:
            raise ConfigError(
                f"There are {trainer.world_size} processes; {type(self).__name__} runs in one. Use --trainer.devices 1 "
                "--trainer.num_nodes 1."
            )
        for evaluator in self._evaluators:
            evaluator.to(trainer.strategy.root_device)
        self.history.clear()

    def teardown(self, stage: str) -> None:
        """Close the evaluators."""
        for evaluator in self._evaluators:
            evaluator.close()

    def configure_optimizers(self) -> Any:
        """The optimizer of the auto-encoder, and its scheduler."""
        parameters = self.autoencoder.parameters()
        return configure(parameters, self.make_optimizer, self.make_scheduler, self.trainer, interval="step")

    # -- samples and steps --------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Evaluate the samples, unless a checkpoint has brought them, and draw the other architectures.

        Raises:
            DataError: The space has too few architectures.
            ConfigError: The schedule has another length than the training.
        """
        super().on_train_start()
        sampler = RandomSearch()
        sampler.start(self.history.space, self.history.objective, derived_seed(self.seed, "samples"))
        sampler.tell(self.history.results)
        sampler.tell_failed([each.architecture for each in self.history.failures])
        while (missing := self.samples - len(self.history.results)) > 0 and self._step(sampler, missing):
            pass
        if len(self.history.results) < self.samples:
            raise DataError(
                f"samples is {self.samples}; the space has only {len(self.history.results)} architectures. Lower it."
            )
        sampler.generator.manual_seed(derived_seed(self.seed, "unlabelled"))
        others = sampler.sample_unseen(self.unlabelled) or [a for a, _ in self.history.results]
        sign = sign_of(self.history.objective)
        samples = self.history.results[: self.samples]
        values = [sign * evaluation.objectives[self.history.objective] for _, evaluation in samples]
        self.choices = self._choices([a for a, _ in samples])
        self.performance = torch.tensor(values, device=self.device)
        self.others = self._choices(others)

    def _step(self, strategy: Strategy, count: int) -> bool:
        """Run a generation, and write every query so far; whether there was one."""
        try:
            return bool(self.history.step(strategy, count))
        finally:
            if self.history.queries:
                self.history.write_progress(self._folder, **self._provenance)

    @property
    def _folder(self) -> Path:
        """The folder of the artifacts."""
        return output_folder(self.trainer, self.output_dir)

    @property
    def _provenance(self) -> dict[str, Any]:
        """What the artifacts say about their origin."""
        return {"strategy": type(self.strategy).__name__, "samples": self.samples, "seed": self.seed}

    def _choices(self, architectures: Any) -> Tensor:
        return torch.tensor([a.choices for a in architectures], device=self.device)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """The loss of reconstructing samples and other architectures, and of ranking the samples."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "step", self.global_step))
        samples = torch.randperm(len(self.choices), generator=generator)[: self.batch_size]
        samples = samples.to(self.device, non_blocking=True)
        others = torch.randint(len(self.others), (len(samples),), generator=generator)
        others = others.to(self.device, non_blocking=True)
        choices = torch.cat([self.choices[samples], self.others[others]])
        codes = self.autoencoder.encode(choices)
        reconstruction = self.autoencoder.reconstruction_loss(codes, choices)
        rank = self.rank_loss.loss(self.autoencoder.scores(codes[: len(samples)]), self.performance[samples])
        values = {"train/reconstruction": reconstruction, "train/rank": rank}
        self.log_dict(values, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(choices))
        return reconstruction + self.rank_weight * rank

    # -- the end ------------------------------------------------------------------------------------------------------

    def on_fit_end(self) -> None:
        """Search for codes, spend the rest of the budget, and write the artifacts."""
        self.autoencoder.cpu()
        self.strategy.start(self.history.space, self.history.objective, self.seed)
        self.strategy.tell(self.history.results)
        self.strategy.tell_failed([each.architecture for each in self.history.failures])
        self.strategy.autoencoder = self.autoencoder
        while self.history.left and self._step(self.strategy, self.history.left):
            pass
        self.outputs = self.history.write(self._folder, self.final_evaluator, **self._provenance)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the query history."""
        checkpoint["search"] = self.history.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the query history."""
        self.history.load_state_dict(kept(self, checkpoint, "search"))
