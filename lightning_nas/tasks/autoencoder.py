"""Search by an auto-encoder of architectures: sample, train, look for good codes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_nas.data.dummy import DummyDataModule
from lightning_nas.data.splits import derived_seed
from lightning_nas.errors import ConfigError, DataError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.predictors.autoencoder import ArchitectureAutoEncoder
from lightning_nas.predictors.rank_losses import PairwiseLogistic, RankLoss
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.constrained import ConstrainedSpace
from lightning_nas.strategies.history import QueryHistory
from lightning_nas.strategies.random_search import RandomSearch
from lightning_nas.strategies.tnao import CodeSearch
from lightning_nas.tasks.common import output_folder


class AutoEncoderTask(LightningModule):
    """Queries random architectures, trains an auto-encoder on them, and queries what it then finds (TNAO).

    Training and search are apart. ``samples`` architectures are drawn uniformly from the whole space and queried. The
    auto-encoder learns to reconstruct them and others that are not queried, and to score the former by rank: a step,
    counted by ``DummyDataModule``, minimises ``cross-entropy + rank_weight * rank loss`` over ``batch_size`` samples
    and as many random others. Then ``strategy`` looks for codes with high scores, without a query, and the
    architectures that these are decoded to spend what is left of the budget. At the end ``architecture.json`` holds the
    best of all, ``history.json`` every query. A reconstruction: of the paper only the abstract is public.

    References:
        1. He, Hou, Dong, Feng: Two-stage Neural Architecture Optimization with Separated Training and Search, IJCNN
           2023, https://doi.org/10.1109/IJCNN54540.2023.10191955

    Attributes:
        history: All queries of the search.
        outputs: Files that the run has written, by the kind of artifact.

    Args:
        space: What is searched.
        evaluator: What evaluates.
        strategy: What looks for codes.
        optimizer: Of the auto-encoder.
        scheduler: Stepped after every step.
        samples: Random architectures that are queried first, at least 2.
        budget: Queries in all, more than ``samples``.
        unlabelled: Random architectures that are reconstructed only, at least 1.
        batch_size: Samples a step, at least 2; all where there are fewer.
        rank_loss: What scores are trained by; by default logistic over all pairs.
        rank_weight: Its factor, above 0.
        width: See ``ArchitectureAutoEncoder``.
        code: Likewise.
        layers: Likewise.
        heads: Likewise.
        dropout: Likewise.
        objective: Which of the evaluator's objectives decides; lower is better where the name ends in ``loss``.
        constraints: The most that an architecture may cost, by the name of the cost; see ``ConstrainedSpace``.
        final_evaluator: What looks at the one architecture that was found, such as by test accuracies; none if null.
        seed: Of all random choices.
        output_dir: Where the files go; by default the folder of this run's logger.

    Raises:
        ConfigError: A number is out of its range.
    """

    def __init__(
        self,
        space: SearchSpace,
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
    ) -> None:
        super().__init__()
        if not 2 <= samples < budget or unlabelled < 1 or batch_size < 2 or rank_weight <= 0:
            raise ConfigError(
                f"samples is {samples}, budget {budget}, unlabelled {unlabelled}, batch_size {batch_size} and "
                f"rank_weight {rank_weight}; expected are at least 2, more than samples, at least 1, at least 2, and "
                "above 0."
            )
        constrained = ConstrainedSpace(space, evaluator.costs, constraints) if constraints else space
        self.history = QueryHistory(constrained, evaluator, budget, objective)
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
            self.autoencoder = ArchitectureAutoEncoder(space.num_values, width, code, layers, heads, dropout)

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
        """Begin the search; a checkpoint's replaces it.

        Raises:
            ConfigError: There are several processes, or other data.
        """
        trainer = self.trainer
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)
        if not isinstance(data, DummyDataModule) or trainer.world_size > 1:
            raise ConfigError(
                f"{type(self).__name__} needs lightning_nas.data.dummy.DummyDataModule as data and one process; it got "
                f"{type(data).__name__} and {trainer.world_size}. Use --trainer.devices 1 --trainer.num_nodes 1."
            )
        for evaluator in self._evaluators:
            evaluator.to(trainer.strategy.root_device)
        self.history.results = []

    def configure_optimizers(self) -> Any:
        """The auto-encoder's."""
        optimizer = self.make_optimizer(self.autoencoder.parameters())
        if self.make_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.make_scheduler(optimizer), "interval": "step"},
        }

    # -- samples and steps --------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Query the samples that a checkpoint did not bring, and draw the others.

        Raises:
            DataError: The space has too few architectures.
        """
        sampler = RandomSearch()
        sampler.start(self.history.space, self.history.objective, derived_seed(self.seed, "samples"))
        if not self.history.results:
            self.history.step(sampler, self.samples)
        if len(self.history.results) < self.samples:
            raise DataError(
                f"The space gave {len(self.history.results)} architectures, samples is {self.samples}. Set it lower."
            )
        sampler.tell(self.history.results)
        sampler.generator.manual_seed(derived_seed(self.seed, "unlabelled"))
        others = sampler.sample_unseen(self.unlabelled) or [a for a, _ in self.history.results]
        sign = -1.0 if self.history.objective.endswith("loss") else 1.0
        samples = self.history.results[: self.samples]
        worth = [sign * evaluation.objectives[self.history.objective] for _, evaluation in samples]
        self.choices = self._choices([a for a, _ in samples])
        self.worth = torch.tensor(worth, device=self.device)
        self.others = self._choices(others)

    def _choices(self, architectures: Any) -> Tensor:
        return torch.tensor([a.choices for a in architectures], device=self.device)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Reconstruct samples and others; rank the samples."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "step", self.global_step))
        samples = torch.randperm(len(self.choices), generator=generator)[: self.batch_size].to(self.device)
        others = torch.randint(len(self.others), (len(samples),), generator=generator).to(self.device)
        choices = torch.cat([self.choices[samples], self.others[others]])
        codes = self.autoencoder.encode(choices)
        reconstruction = self.autoencoder.reconstruction_loss(codes, choices)
        rank = self.rank_loss.loss(self.autoencoder.scores(codes[: len(samples)]), self.worth[samples])
        values = {"train/reconstruction": reconstruction, "train/rank": rank}
        self.log_dict(values, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(choices))
        return reconstruction + self.rank_weight * rank

    # -- the end ------------------------------------------------------------------------------------------------------

    def on_fit_end(self) -> None:
        """Look for codes, spend the last queries, and write what was found."""
        self.autoencoder.cpu()
        self.strategy.start(self.history.space, self.history.objective, self.seed)
        self.strategy.tell(self.history.results)
        self.strategy.autoencoder = self.autoencoder
        while self.history.left and self.history.step(self.strategy, self.history.left):
            pass
        folder = output_folder(self.trainer, self.output_dir)
        name = type(self.strategy).__name__
        self.outputs = self.history.write(
            folder, self.final_evaluator, strategy=name, samples=self.samples, seed=self.seed
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the account."""
        checkpoint["search"] = self.history.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.history.load_state_dict(checkpoint["search"])
