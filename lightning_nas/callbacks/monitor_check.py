"""The metrics that callbacks monitor must exist."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_nas.errors import ConfigError

ALWAYS = ("epoch", "step")
"""What Lightning offers as metrics in every run."""


def check_monitor(who: str, monitor: str, metrics: Sequence[str], validates: bool) -> None:
    """Refuse a metric that a run will not have.

    Args:
        who: Name of the callback that monitors the metric.
        monitor: Name of the metric.
        metrics: Metrics that task and callbacks log, as patterns.
        validates: Whether the run has a validation set. Metrics that begin with ``val/`` exist only if it has.

    Raises:
        ConfigError: The metric will not exist.
    """
    existing = [name for name in metrics if validates or not name.startswith("val/")]
    if any(fnmatchcase(monitor, name) for name in (*existing, *ALWAYS)):
        return
    listed = f"The metrics of this run are {', '.join(existing)}." if existing else "This run has no metrics."
    if any(fnmatchcase(monitor, name) for name in metrics):
        raise ConfigError(
            f"{who} monitors {monitor!r}, but the run has no validation set. {listed} Monitor one of these, or give "
            "the data a validation set, such as by --data.validation_fraction 0.1."
        )
    raise ConfigError(f"{who} monitors {monitor!r}, which nothing in this run logs. {listed} Monitor one of these.")


class MonitorCheck(Callback):
    """Refuses callbacks and schedulers that monitor a metric which the run will not have, before its first step.

    Lightning finds out after the first epoch: then the run ends with an error, or it saves no checkpoint. The command
    line adds this callback to every ``fit``. The metrics of a task, and of callbacks that log some, are in their
    attribute ``metrics_logged``; a task of one's own without it is not checked.

    Example:
        ```python
        Trainer(callbacks=[MonitorCheck(), EarlyStopping("val/loss")])
        ```
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare what is monitored with what exists.

        Raises:
            ConfigError: A monitored metric will not exist.
        """
        task: Any = pl_module
        if getattr(task, "metrics_logged", None) is None:
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        metrics = [name for part in (task, *callbacks) for name in getattr(part, "metrics_logged", ())]
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        for callback in (*callbacks, *schedulers):
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str):
                check_monitor(type(callback).__name__, monitor, metrics, bool(trainer.enable_validation))
