"""Whether a proxy may be trusted: how it ranks architectures, compared with what they are worth."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from lightning_nas.architecture import Architecture
from lightning_nas.data.architectures import ArchitecturesDataModule
from lightning_nas.errors import CheckpointError, ConfigError, FidelityError, TrainingError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.files.artifacts import read_json, write_json
from lightning_nas.metrics.ranking import bootstrap_interval, kendall_tau, regret
from lightning_nas.tasks.common import output_folder

INFORMATIVE = 32
"""Below so many architectures the interval is too wide to decide on: the result is called informative only."""

LEVEL = 0.95
"""Confidence of the interval."""

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""Of the trainer; the others make networks of other numbers than the images are."""


class FidelityTask(LightningModule):
    """Evaluates random architectures twice, on a proxy and by a truth, and compares the two rankings.

    A training step evaluates one architecture of ``ArchitecturesDataModule`` in float32; one epoch is all of them.
    Results so far are in the checkpoints. At the end ``fidelity.json`` holds every evaluation, Kendall's tau-b with its
    95 % bootstrap interval over architectures, and the regret: how much less accurate than the best of them the
    proxy's first choice is. The truth should see other images than the proxy is scored on: give its data the same
    ``validation_fraction``.

    Attributes:
        inputs: Files of the proxy, by the kind of artifact.
        outputs: Files that the run has written, likewise.

    Args:
        proxy: How architectures are scored on the proxy, such as by ``ShortTraining`` on a ``DistilledDataModule``
            whose search half is real.
        reference: Measures the accuracy of architectures, such as ``ShortTraining`` on real data or ``TableLookup``.
        objective: Which of the proxy's objectives ranks; lower is better where the name ends in ``loss``.
        threshold: Tau below which the proxy should not be searched on, which is said in a warning; none if null.
        stop: Whether to end with an error instead, when all is written.
        write_to: Path of the ``proxy.safetensors`` whose ``proxy.json`` gets the result, too, as ``fidelity``; none if
            null.
        output_dir: Where ``fidelity.json`` goes; by default the folder of this run's logger.

    Raises:
        ConfigError: ``stop`` without ``threshold``.
    """

    def __init__(
        self,
        proxy: Evaluator,
        reference: Evaluator,
        objective: str = "loss",
        threshold: float | None = None,
        stop: bool = False,
        write_to: str | None = None,
        output_dir: str | None = None,
    ) -> None:
        super().__init__()
        if stop and threshold is None:
            raise ConfigError("stop needs a threshold. Set --model.threshold, such as 0.2, or leave stop out.")
        self.proxy = proxy
        self.reference = reference
        self.objective = objective
        self.threshold = threshold
        self.stop = stop
        self.write_to = None if write_to is None else Path(write_to)
        self.output_dir = output_dir
        self.results: list[dict[str, Any]] = []
        files = [] if self.write_to is None else [self.write_to, self.write_to.with_suffix(".json")]
        self.inputs = {"proxy": files} if files else {}
        self.outputs: dict[str, list[Path]] = {}

    def prepare_data(self) -> None:
        """Download what the evaluators need."""
        self.proxy.prepare_data()
        self.reference.prepare_data()

    def setup(self, stage: str) -> None:
        """Forget the results of a run before; a checkpoint's replace them.

        Raises:
            ConfigError: There are several processes or epochs, another precision, no architectures, or proxy and truth
                with the same seed.
            ArtifactError: The proxy that the result is to be written to has no ``proxy.json``.
        """
        trainer = self.trainer
        if trainer.world_size > 1 or trainer.max_epochs != 1 or trainer.precision not in PRECISIONS:
            raise ConfigError(
                f"There are {trainer.world_size} processes, max_epochs is {trainer.max_epochs} and precision "
                f"{trainer.precision}; every architecture is evaluated once, in one process and in float32. Use "
                "--trainer.devices 1 --trainer.num_nodes 1 --trainer.max_epochs 1 --trainer.precision 32-true."
            )
        seeds = [getattr(evaluator, "seed", None) for evaluator in (self.proxy, self.reference)]
        if seeds[0] is not None and seeds[0] == seeds[1]:
            raise ConfigError(
                f"Proxy and truth both have the seed {seeds[0]}: from the same first weights they agree more than the "
                "data do. Set --model.reference.seed to another."
            )
        if not isinstance(self._data, ArchitecturesDataModule):
            raise ConfigError(
                f"{type(self).__name__} needs lightning_nas.data.architectures.ArchitecturesDataModule as data; it got "
                f"{type(self._data).__name__}."
            )
        if self.write_to is not None:
            self._proxy_info(self.write_to)
        self.results = []
        for evaluator in (self.proxy, self.reference):
            evaluator.to(trainer.strategy.root_device)

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)

    @staticmethod
    def _proxy_info(path: Path) -> dict[str, Any]:
        return read_json(path.with_suffix(".json"), repair="Distill first, or set write_to to null.")

    def configure_optimizers(self) -> None:
        """There is nothing to train here. Lightning counts a step a batch all the same, and keeps checkpoints."""

    # -- one architecture ---------------------------------------------------------------------------------------------

    def training_step(self, batch: Architecture, batch_idx: int) -> None:
        """Evaluate one architecture on the proxy and by the truth."""
        row: dict[str, Any] = {"architecture": self._data.space.text(batch)}
        for name, evaluator, objective in (
            ("proxy", self.proxy, self.objective),
            ("truth", self.reference, "accuracy"),
        ):
            start = time.perf_counter()
            with torch.autocast(self.device.type, enabled=False):  # short trainings scale no gradients
                (found,) = evaluator.evaluate([batch])
            if objective not in found.objectives:
                raise ConfigError(
                    f"{name} ({type(evaluator).__name__}) gives {sorted(found.objectives)}, not {objective!r}. "
                    "Choose another objective or evaluator."
                )
            row[name] = float(found.objectives[objective])
            row[f"{name}_seconds"] = time.perf_counter() - start
            if not math.isfinite(row[name]):
                raise TrainingError(
                    f"{name} ({type(evaluator).__name__}) gives {row['architecture']} the {objective} {row[name]}; a "
                    "finite number was expected. Lower its learning rate, or leave out what makes it diverge."
                )
        self.results.append(row)
        values = {"proxy": row["proxy"], "truth": row["truth"]}
        if len(self.results) > 1:
            scores, truth = self._rankings()
            values |= {"tau": kendall_tau(scores, truth), "regret": regret(scores, truth)}
        self.log_dict(values, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)

    def _rankings(self) -> tuple[list[float], list[float]]:
        """Scores and truths, higher is better for both."""
        sign = -1.0 if self.objective.endswith("loss") else 1.0
        return [sign * row["proxy"] for row in self.results], [row["truth"] for row in self.results]

    # -- the end ------------------------------------------------------------------------------------------------------

    def found(self) -> dict[str, Any]:
        """What ``proxy.json`` gets: the agreement of both rankings, as JSON values.

        Raises:
            DataError: There are fewer than two results.
        """
        scores, truth = self._rankings()
        tau, price = kendall_tau(scores, truth), regret(scores, truth)
        low, high, _ = bootstrap_interval(kendall_tau, scores, truth, level=LEVEL)
        seconds = {name: sum(row[f"{name}_seconds"] for row in self.results) for name in ("proxy", "truth")}
        return {
            "kendall_tau": _json(tau),
            "interval": [_json(low), _json(high)],
            "interval_level": LEVEL,
            "regret": price,
            "regret_points": 100 * price,
            "best_truth": max(truth),
            "mean_truth": sum(truth) / len(truth),
            "architectures": len(truth),
            "informative_only": len(truth) < INFORMATIVE,
            "objective": self.objective,
            "threshold": self.threshold,
            "passed": None if self.threshold is None else tau >= self.threshold,
            "proxy_evaluator": type(self.proxy).__name__,
            "truth_evaluator": type(self.reference).__name__,
            "proxy_seconds": round(seconds["proxy"], 3),
            "truth_seconds": round(seconds["truth"], 3),
        }

    def on_fit_end(self) -> None:
        """Write what was found; after the last checkpoint, so that a run that stops here need not be repeated.

        Raises:
            FidelityError: Tau is below the threshold, or not defined, and ``stop`` is set.
        """
        found = self.found()
        folder = output_folder(self.trainer, self.output_dir)
        path = write_json(folder / "fidelity.json", {**found, "results": self.results})
        self.outputs = {"fidelity": [path]}
        if self.write_to is not None:
            content = {**self._proxy_info(self.write_to), "fidelity": found}
            self.outputs["proxy"] = [self.write_to, write_json(self.write_to.with_suffix(".json"), content)]
        if found["passed"] is False:
            self._complain(found)

    def _complain(self, found: dict[str, Any]) -> None:
        tau, (low, high) = found["kendall_tau"], found["interval"]
        measured = (
            "not defined, because all scores or all truths are equal"
            if tau is None
            else f"{tau:.3f} (95 % interval {low:.3f} to {high:.3f})"
        )
        said = (
            f"The proxy ranks architectures too differently from the truth: Kendall's tau of {found['architectures']} "
            f"architectures is {measured}, the threshold is {self.threshold}. Distill more different images or train "
            "longer on them, search on real images instead, or lower the threshold."
        )
        if self.stop:
            raise FidelityError(said)
        rank_zero_warn(said)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the results so far, and what the evaluators need to go on."""
        checkpoint["results"] = [dict(row) for row in self.results]
        checkpoint["evaluators"] = [self.proxy.state_dict(), self.reference.state_dict()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back.

        Raises:
            CheckpointError: They are of other architectures.
        """
        self.results = [dict(row) for row in checkpoint["results"]]
        for evaluator, state in zip((self.proxy, self.reference), checkpoint["evaluators"], strict=True):
            evaluator.load_state_dict(state)
        made = [row["architecture"] for row in self.results]
        mine = [self._data.space.text(a) for a in self._data.architectures[: len(made)]]
        if made != mine:
            raise CheckpointError(
                f"The checkpoint has results of {len(made)} architectures, which are not the first ones of this run. "
                "Use the space, count and seed that it was made with, or start anew without --ckpt_path."
            )


def _json(value: float) -> float | None:
    """JSON has no number for what is not defined."""
    return value if math.isfinite(value) else None
