"""Rank fidelity of a proxy: whether it ranks architectures as a reference does."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_nas.architecture import Architecture
from lightning_nas.checks import at_least
from lightning_nas.data.architectures import ArchitecturesDataModule
from lightning_nas.errors import CheckpointError, ConfigError, FidelityError, TrainingError
from lightning_nas.evaluation.base import Evaluator, evaluate_each, sign_of
from lightning_nas.files.artifacts import read_json, write_json
from lightning_nas.metrics.ranking import bootstrap_interval, kendall_tau, regret
from lightning_nas.tasks.base import Task
from lightning_nas.tasks.common import kept, output_folder

INFORMATIVE = 32
"""Number of architectures below which the interval is too wide for a decision: the result is informative only."""

LEVEL = 0.95
"""Confidence level of the interval."""


class FidelityTask(Task):
    """Evaluates random architectures twice, on a proxy and by a reference, and compares the two rankings.

    A training step evaluates one architecture of ``ArchitecturesDataModule`` in float32; one epoch covers all of them.
    Checkpoints hold the results so far. At the end ``fidelity.json`` holds every evaluation, Kendall's tau-b with its
    95 % bootstrap interval over the architectures, and the regret: how much less accurate the proxy's first choice is
    than the best of the architectures. An architecture whose evaluation fails on either side is left out, and listed
    with the reason. The reference should train on other images than those that the proxy is scored
    on: give the data of both the same ``validation_fraction``.

    A proxy has to beat real images of the same bytes. Where there is a ``control``, every architecture is evaluated on
    it as well, and the result has its tau, the difference of the two with its bootstrap interval over the same
    architectures, and which one is better: the one on whose side of 0 the whole interval lies, or neither.

    Attributes:
        results: The evaluations so far.
        failures: The architectures that could not be evaluated, with ``evaluator`` and ``reason``.
        inputs: Files that the run reads, by kind of artifact.
        outputs: Files that the run has written, by kind of artifact.

    Args:
        proxy: Evaluates architectures on the proxy, such as ``ShortTraining`` on a ``DistilledDataModule`` whose search
            half is real.
        reference: Measures their ``accuracy``, such as ``ShortTraining`` on real data, or ``TableLookup``.
        control: Evaluates architectures on what the proxy is compared with, such as ``ShortTraining`` on real images of
            the same bytes (``distill/random_subset`` with ``bits`` of the proxy); null for no comparison. The same
            settings and seed as for the proxy make the comparison fair.
        objective: Name of the proxy's objective that ranks; lower is better where the name ends in ``loss``.
        threshold: Tau below which a warning says not to search on the proxy; null for no warning.
        stop: Whether tau below the threshold is an error instead, after everything is written.
        write_to: Path of a ``proxy.safetensors``; the ``proxy.json`` beside it also gets the result, as ``fidelity``.
            Null leaves this out.
        output_dir: Folder for ``fidelity.json``; by default that of the run's logger.
        max_failures: Number of architectures whose evaluation may fail, at least 0, before the run ends with an error.
            The default forgives single failures and soon ends a run whose evaluators cannot work.

    Raises:
        ConfigError: ``stop`` is set without ``threshold``, or ``max_failures`` is less than 0.

    Example:
        ```yaml
        model:
          class_path: FidelityTask
          init_args:
            proxy:
              class_path: ShortTraining
              init_args: {data: {class_path: DistilledDataModule, init_args: {proxy_path: proxy.safetensors}}}
            reference:
              class_path: TableLookup
              init_args: {table: {class_path: NASBench201Table, init_args: {path: nasbench201.npz}}}
            threshold: 0.2
        data: {class_path: ArchitecturesDataModule, init_args: {space: NASBench201Space, count: 64}}
        ```
    """

    writes = ("fidelity.json",)
    metrics_logged = ("proxy", "truth", "tau", "regret")
    one_process = True
    length_from = "the count of architectures in its data"

    def __init__(
        self,
        proxy: Evaluator,
        *,
        reference: Evaluator,
        control: Evaluator | None = None,
        objective: str = "loss",
        threshold: float | None = None,
        stop: bool = False,
        write_to: str | None = None,
        output_dir: str | None = None,
        max_failures: int = 10,
    ) -> None:
        super().__init__()
        at_least(0, max_failures=max_failures)
        if stop and threshold is None:
            raise ConfigError("stop needs a threshold. Set --model.threshold, such as 0.2, or leave stop out.")
        self.proxy = proxy
        self.reference = reference
        self.control = control
        self.objective = objective
        self.threshold = threshold
        self.stop = stop
        self.write_to = None if write_to is None else Path(write_to)
        self.output_dir = output_dir
        self.max_failures = max_failures
        self.results: list[dict[str, Any]] = []
        self.failures: list[dict[str, str]] = []
        files = [] if self.write_to is None else [self.write_to, self.write_to.with_suffix(".json")]
        self.inputs = {"proxy": files} if files else {}
        self.outputs: dict[str, list[Path]] = {}

    @property
    def trains(self) -> bool:
        """False: the evaluators train networks of their own."""
        return False

    @property
    def _evaluators(self) -> list[Evaluator]:
        """The proxy's, that of the reference, and that of the control if there is one."""
        return [self.proxy, self.reference, *([] if self.control is None else [self.control])]

    def prepare_data(self) -> None:
        """Download what the evaluators need."""
        for evaluator in self._evaluators:
            evaluator.prepare_data()

    def setup(self, stage: str) -> None:
        """Forget earlier results, which a checkpoint replaces by its own.

        Raises:
            ConfigError: There are several processes or epochs, the data are not an
                ``ArchitecturesDataModule``, or proxy or control and reference have the same seed.
            ArtifactError: The proxy at ``write_to`` has no ``proxy.json``.
        """
        trainer = self.trainer
        if trainer.world_size > 1 or trainer.max_epochs != 1:
            raise ConfigError(
                f"There are {trainer.world_size} processes and max_epochs is {trainer.max_epochs}; every "
                "architecture is evaluated once, in one process. Use --trainer.devices 1 --trainer.num_nodes 1 "
                "--trainer.max_epochs 1."
            )
        seed = getattr(self.reference, "seed", None)
        compared = {"Proxy": self.proxy, "Control": self.control}
        alike = [name for name, each in compared.items() if seed is not None and getattr(each, "seed", None) == seed]
        if alike:
            raise ConfigError(
                f"{alike[0]} and reference both have the seed {seed}: with equal initial weights they agree more than "
                "their data do. Set --model.reference.seed to another one."
            )
        if not isinstance(self._data, ArchitecturesDataModule):
            raise ConfigError(
                f"{type(self).__name__} needs ArchitecturesDataModule as data; it got {type(self._data).__name__}."
            )
        if self.write_to is not None:
            self._proxy_info(self.write_to)
        self.results, self.failures = [], []
        for evaluator in self._evaluators:
            evaluator.to(trainer.strategy.root_device)

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]  # set by fit(datamodule=...)

    @staticmethod
    def _proxy_info(path: Path) -> dict[str, Any]:
        return read_json(path.with_suffix(".json"), repair="Distill first, or set write_to to null.")

    def configure_optimizers(self) -> None:
        """No optimizer. Lightning still counts one step per architecture, and keeps checkpoints."""

    # -- one architecture ---------------------------------------------------------------------------------------------

    def training_step(self, batch: Architecture, batch_idx: int) -> None:
        """Evaluate one architecture on the proxy and by the reference.

        Raises:
            TrainingError: More than ``max_failures`` architectures could not be evaluated.
        """
        row: dict[str, Any] = {"architecture": self._data.space.text(batch)}
        try:
            row["proxy"], row["proxy_seconds"] = self._measured("proxy", self.proxy, batch, self.objective)
            row["truth"], row["truth_seconds"] = self._measured("reference", self.reference, batch, "accuracy")
            if self.control is not None:
                found = self._measured("control", self.control, batch, self.objective)
                row["control"], row["control_seconds"] = found
        except _FailedError as error:
            self.failures.append({**error.failure, "architecture": row["architecture"]})
            if len(self.failures) > self.max_failures:
                raise TrainingError(f"{self._failed()} Fix it, or raise max_failures.") from None
            return
        self.results.append(row)
        values = {"proxy": row["proxy"], "truth": row["truth"]}
        if len(self.results) > 1:
            scores, target = self._rankings()
            values |= {"tau": kendall_tau(scores, target), "regret": regret(scores, target)}
        self.log_dict(values, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)

    def _measured(
        self, name: str, evaluator: Evaluator, architecture: Architecture, objective: str
    ) -> tuple[float, float]:
        """An objective of an architecture, and the seconds that its evaluation took.

        Raises:
            _FailedError: The evaluation has failed.
            ConfigError: It doesn't give the objective.
        """
        start = time.perf_counter()
        with torch.autocast(self.device.type, enabled=False):  # short trainings do not scale gradients
            (found,) = evaluate_each(evaluator, [architecture])
        if found.failure is not None:
            raise _FailedError(name, evaluator, found.failure)
        if objective not in found.objectives:
            raise ConfigError(
                f"{name} ({type(evaluator).__name__}) gives {sorted(found.objectives)}, not {objective!r}. "
                "Choose another objective or evaluator."
            )
        value, seconds = float(found.objectives[objective]), time.perf_counter() - start
        if not math.isfinite(value):
            raise _FailedError(name, evaluator, f"The {objective} is {value}; a finite number was expected.")
        return value, seconds

    def _failed(self) -> str:
        """How many evaluations failed, and the last one."""
        last = self.failures[-1]
        return (
            f"{len(self.failures)} of {len(self.failures) + len(self.results)} evaluations failed (max_failures is "
            f"{self.max_failures}). The last one was of {last['architecture']:.300} by the {last['evaluator']}: "
            f"{last['reason']}"
        )

    def _rankings(self, name: str = "proxy") -> tuple[list[float], list[float]]:
        """The results of the proxy, or of the control, and of the reference; higher is better in both."""
        sign = sign_of(self.objective)
        return [sign * row[name] for row in self.results], [row["truth"] for row in self.results]

    # -- the end ------------------------------------------------------------------------------------------------------

    def found(self) -> dict[str, Any]:
        """The agreement of both rankings as JSON values, as ``proxy.json`` gets it.

        Raises:
            DataError: There are fewer than two results.
        """
        scores, target = self._rankings()
        tau, price = kendall_tau(scores, target), regret(scores, target)
        low, high, _ = bootstrap_interval(kendall_tau, scores, target, level=LEVEL)
        seconds = {name: sum(row[f"{name}_seconds"] for row in self.results) for name in ("proxy", "truth")}
        compared = {} if self.control is None else {"control": self._compared(tau)}
        return {
            **compared,
            "kendall_tau": _json(tau),
            "interval": [_json(low), _json(high)],
            "interval_level": LEVEL,
            "regret": price,
            "regret_points": 100 * price,
            "best_truth": max(target),
            "mean_truth": sum(target) / len(target),
            "architectures": len(target),
            "failed": len(self.failures),
            "informative_only": len(target) < INFORMATIVE,
            "objective": self.objective,
            "threshold": self.threshold,
            "passed": None if self.threshold is None else tau >= self.threshold,
            "proxy_evaluator": type(self.proxy).__name__,
            "truth_evaluator": type(self.reference).__name__,
            "proxy_seconds": round(seconds["proxy"], 3),
            "truth_seconds": round(seconds["truth"], 3),
        }

    def _compared(self, tau: float) -> dict[str, Any]:
        """How well the control ranks, and which of the two ranks better, as JSON values."""
        proxy, target = self._rankings()
        control, _ = self._rankings("control")
        other = kendall_tau(control, target)
        low, high, _ = bootstrap_interval(kendall_tau, control, target, level=LEVEL)
        # the statistic gets places, so that both taus are of the same resample

        def difference(places: Sequence[float], _: Sequence[float]) -> float:
            taus = (kendall_tau(*([each[int(p)] for p in places] for each in (scores, target))) for scores in pair)
            return next(taus) - next(taus)

        pair, order = (proxy, control), [float(place) for place in range(len(target))]
        least, most, _ = bootstrap_interval(difference, order, order, level=LEVEL)
        better = "proxy" if least > 0 else "control" if most < 0 else "neither"
        return {
            "kendall_tau": _json(other),
            "interval": [_json(low), _json(high)],
            "difference": _json(tau - other),
            "difference_interval": [_json(least), _json(most)],
            "better": better,
            "evaluator": type(self.control).__name__,
            "seconds": round(sum(row["control_seconds"] for row in self.results), 3),
        }

    def on_fit_end(self) -> None:
        """Write the artifacts, after the last checkpoint, so that a run that stops here need not be repeated.

        Raises:
            FidelityError: Tau is below the threshold or undefined, and ``stop`` is set.
            TrainingError: So many evaluations failed that there is nothing to rank.
        """
        if self.failures:
            if len(self.results) < 2:
                raise TrainingError(f"{self._failed()} There is nothing to rank. Fix it.")
            rank_zero_warn(self._failed())
        found = self.found()
        folder = output_folder(self.trainer, self.output_dir)
        path = write_json(folder / "fidelity.json", {**found, "results": self.results, "failures": self.failures})
        self.outputs = {"fidelity": [path]}
        if self.write_to is not None:
            content = {**self._proxy_info(self.write_to), "fidelity": found}
            self.outputs["proxy"] = [self.write_to, write_json(self.write_to.with_suffix(".json"), content)]
        if (control := found.get("control")) is not None:
            text, warn = comparison(found["kendall_tau"], control)
            (rank_zero_warn if warn else rank_zero_info)(text)
        if found["passed"] is False:
            self._complain(found)

    def _complain(self, found: dict[str, Any]) -> None:
        tau, (low, high) = found["kendall_tau"], found["interval"]
        measured = (
            "undefined, because all results of the proxy or all of the reference are equal"
            if tau is None
            else f"{tau:.3f} (95 % interval {low:.3f} to {high:.3f})"
        )
        message = (
            "The proxy ranks architectures too differently from the reference: Kendall's tau over "
            f"{found['architectures']} architectures is {measured}, the threshold is {self.threshold}. Distill more "
            "diverse images or train longer on them, search on real images instead, or lower the threshold."
        )
        if self.stop:
            raise FidelityError(message)
        rank_zero_warn(message)

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the results so far, and the state of the evaluators."""
        checkpoint["results"] = [dict(row) for row in self.results]
        checkpoint["failures"] = [dict(row) for row in self.failures]
        checkpoint["evaluators"] = [evaluator.state_dict() for evaluator in self._evaluators]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the results and the state of the evaluators.

        Raises:
            CheckpointError: The results are of other architectures, or of other evaluators.
        """
        self.results = [dict(row) for row in kept(self, checkpoint, "results")]
        self.failures = [dict(row) for row in checkpoint.get("failures", [])]
        if len(checkpoint["evaluators"]) != len(self._evaluators):
            raise CheckpointError(
                f"The checkpoint has the results of {len(checkpoint['evaluators'])} evaluators, this run has "
                f"{len(self._evaluators)}. Set control as in the run that wrote it, or start a new run without "
                "--ckpt_path."
            )
        for evaluator, state in zip(self._evaluators, checkpoint["evaluators"], strict=True):
            evaluator.load_state_dict(state)
        made, failed = ([row["architecture"] for row in rows] for rows in (self.results, self.failures))
        mine = [self._data.space.text(a) for a in self._data.architectures[: len(made) + len(failed)]]
        if made != [each for each in mine if each not in failed] or not set(failed) <= set(mine):
            raise CheckpointError(
                f"The checkpoint has results of {len(made)} architectures, which are not the first ones of this run. "
                "Use the space, count and seed that it was made with, or start a new run without --ckpt_path."
            )


def comparison(tau: float | None, control: Mapping[str, Any]) -> tuple[str, bool]:
    """Say which of a proxy and its control ranks architectures better.

    Args:
        tau: Kendall's tau of the proxy; None if it is undefined.
        control: ``control`` of ``fidelity.json``.

    Returns:
        A sentence or two, and whether they are a warning.
    """
    first, second, difference = (
        "undefined" if value is None else f"{value:.2f}"
        for value in (tau, control["kendall_tau"], control["difference"])
    )
    low, high = control["difference_interval"]
    interval = "" if low is None else f", 95 % interval {low:.2f} to {high:.2f}"
    said = f"Kendall's tau is {first} on the proxy and {second} on its control (difference {difference}{interval})."
    if control["better"] == "proxy":
        return f"{said} The proxy ranks architectures better.", False
    if control["better"] == "control":
        return f"{said} The control ranks architectures better: search on the control instead.", True
    return f"{said} The measurement does not show that either ranks better; the control takes no distillation.", True


class _FailedError(Exception):
    """An evaluation has failed.

    Args:
        name: Which of the two it is.
        evaluator: The evaluator.
        reason: Why it failed.
    """

    def __init__(self, name: str, evaluator: Evaluator, reason: str) -> None:
        super().__init__(reason)
        self.failure = {"evaluator": f"{name} ({type(evaluator).__name__})", "reason": reason}


def _json(value: float) -> float | None:
    """The value, or None where it is undefined, for which JSON has no number."""
    return value if math.isfinite(value) else None
