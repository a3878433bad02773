"""What all tasks have in common: they refuse options of the trainer that they cannot follow."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn

from lightning_nas.errors import ConfigError
from lightning_nas.tasks.common import synchronised
from lightning_nas.tasks.course import share, total_steps
from lightning_nas.tasks.optimization import check_cycle

MIXED = ("32-true", "16-mixed", "bf16-mixed")
"""Precisions that keep weights in float32."""


class Task(LightningModule):
    """A task that says which options of the trainer it follows.

    Attributes:
        precisions: Precisions of the trainer that the task computes with.
        overfits: Whether ``overfit_batches`` repeats batches, which it does where batches are images in any order.
        one_process: Whether the task runs in one process only.
        length_from: What the number of epochs and steps follows from, if nothing may end the task before that.
        ends_by: What ends the task, if nothing may prolong it beyond that.
        clip_option: Option that clips gradients where the trainer cannot, because the task steps its own optimizers.
        writes: Names of the files that the task writes to its folder, so that they replace those of no other run.
        reads_anew: Names of arguments that no state in a checkpoint belongs to: their classes may be others than those
            that the checkpoint was made with.
        schedules: Schedules that the task steps itself; see ``build_schedule``.
    """

    precisions: tuple[str, ...] = MIXED
    overfits: ClassVar[bool] = False
    one_process: ClassVar[bool] = False
    length_from: ClassVar[str] = ""
    ends_by: ClassVar[str] = ""
    clip_option: ClassVar[str] = ""
    writes: tuple[str, ...] = ()
    reads_anew: ClassVar[tuple[str, ...]] = ()
    schedules: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def metrics_of(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the metrics that a task logs during a fit, as patterns, before it is made.

        Args:
            arguments: Arguments of the task as in a configuration.
        """
        return tuple(getattr(cls, "metrics_logged", ()))

    @classmethod
    def check_arguments(cls, arguments: Mapping[str, Any], data: Any) -> None:
        """Refuse arguments that do not fit the data, before the task is made and the data are read.

        Args:
            arguments: Arguments of the task as in a configuration.
            data: Data module of the task.

        Raises:
            ConfigError: An argument does not fit.
        """

    @property
    def trains(self) -> bool:
        """Whether the trainer steps an optimizer."""
        return True

    @property
    def follows_course(self) -> str:
        """What follows ``progress``, as the beginning of a sentence; empty, the default, if nothing does.

        A training whose number of steps is unknown is refused if it is not empty.
        """
        return ""

    @property
    def current_step(self) -> int:
        """Index of the present optimizer step, counted from 0; several optimizers step together, once per batch."""
        return self.global_step if self.automatic_optimization else max(self.trainer.fit_loop.total_batch_idx, 0)

    @property
    def total_steps(self) -> int | None:
        """Number of optimizer steps of the training by ``max_epochs`` and ``max_steps``, from ``on_train_start`` on.

        None if neither of them limits the training. What else may end it, such as ``max_time``, is not counted.
        """
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        held = [each.limit for each in callbacks if isinstance(each, BatchLimit)]
        return total_steps(self.trainer, max(self.trainer.max_steps, *held, -1))

    @property
    def course_steps(self) -> int | None:
        """Number of optimizer steps in which ``progress`` goes from 0 to 1; None if it is unknown."""
        return self.total_steps

    @property
    def progress(self) -> float:
        """Fraction of the training that is over: exactly 0 in the first optimizer step, and 1 in the last one.

        Temperatures, weights and rates that change in the course of a training follow this number and nothing else. It
        is the same in all processes and in a resumed training. A training of a single step is at its end; one that
        ends before ``course_steps``, by ``max_time`` or a callback, ends below 1. Without ``course_steps`` it stays at
        0: what needs the length of a training refuses it before the first step.
        """
        steps = self.course_steps
        return 0.0 if steps is None else share(self.current_step, steps)

    def configure_callbacks(self) -> list[Callback]:
        """Refuse what the task cannot follow: of all hooks, Lightning calls this one first.

        Returns:
            A callback that counts the batches of a task with several optimizers, whose steps Lightning would count.

        Raises:
            ConfigError: An option of the trainer does not fit.
        """
        trainer = self.trainer
        check_precision(self, trainer)
        if trainer.precision == "64-true":  # Lightning waits until it has read a checkpoint, and rounds that
            self.double()
        if trainer.state.fn == TrainerFn.PREDICTING and type(self).predict_step is LightningModule.predict_step:
            raise ConfigError(
                f"{type(self).__name__} predicts nothing. Train its result with TrainTask, and predict with that."
            )
        if trainer.state.fn != TrainerFn.FITTING:
            return []
        check_length(self, trainer)
        if (trainer.max_epochs or -1) < 1 and trainer.max_steps < 1:  # all that is known before the data are read
            check_course(self, trainer)
        check_processes(self, trainer)
        check_gradients(self, trainer)
        return [] if self.automatic_optimization or not self.trains else [BatchLimit()]

    def on_train_start(self) -> None:
        """Refuse a schedule of another length than the training, which is known by now.

        Raises:
            ConfigError: A ``OneCycleLR`` has another length, or the length is unknown and something follows it.
        """
        if self.course_steps is None:
            check_course(self, self.trainer)
        lightnings = [(config.scheduler, config.interval) for config in self.trainer.lr_scheduler_configs]
        own = [(schedule["scheduler"], schedule["interval"]) for schedule in self.schedules]
        for scheduler, interval in lightnings if self.automatic_optimization else own:
            if interval == "step":
                check_cycle(scheduler, self.trainer, self.total_steps)


class BatchLimit(Callback):
    """Ends a training after ``max_steps`` batches, of which Lightning counts the steps of every optimizer.

    For the same reason it refuses checkpoints every so many steps, which would fall on other batches than were meant.
    """

    def __init__(self) -> None:
        self.limit = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the limit of the trainer.

        Raises:
            ConfigError: A ``ModelCheckpoint`` counts the steps of several optimizers.
        """
        check_saving(trainer)
        self.limit = trainer.max_steps
        trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further where a checkpoint has reached the limit."""
        self._stop_at_limit(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at the limit."""
        self._stop_at_limit(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the limit back to the trainer."""
        if self.limit != -1:
            trainer.fit_loop.epoch_loop.max_steps = self.limit

    def _stop_at_limit(self, trainer: Trainer) -> None:
        if self.limit != -1 and trainer.fit_loop.total_batch_idx + 1 >= self.limit:
            trainer.should_stop = True


def _is_trial(trainer: Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))


def check_precision(task: Task, trainer: Trainer) -> None:
    """Refuse a precision that the task does not compute with.

    Args:
        task: The task.
        trainer: Its trainer.

    Raises:
        ConfigError: The precision is another one.
    """
    if trainer.precision not in task.precisions:
        raise ConfigError(
            f"The trainer has precision {trainer.precision}; {type(task).__name__} computes with one of "
            f"{', '.join(task.precisions)}. bf16-mixed saves most of the memory and time that lower precision can."
        )


def check_length(task: Task, trainer: Trainer) -> None:
    """Refuse a training without a step, and limits that the task has no use for.

    Args:
        task: The task.
        trainer: Its trainer.

    Raises:
        ConfigError: An option of the trainer does not fit.
    """
    name = type(task).__name__
    for key in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, key) == 0:
            raise ConfigError(f"trainer.{key} is 0, with which nothing is computed. Raise it, or leave it out.")
    for key in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        value = getattr(trainer, key)
        if value is not None and value < 1:
            raise ConfigError(f"trainer.{key} is {value}; it must be at least 1. Raise it, or leave it out.")
    if (trainer.gradient_clip_val or 0) < 0:
        raise ConfigError(
            f"trainer.gradient_clip_val is {trainer.gradient_clip_val}, below 0, with which Lightning clips nothing. "
            "Set it to a norm above 0, or leave it out."
        )
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    if any(timer.time_remaining() == 0 for timer in timers):
        raise ConfigError("trainer.max_time is 0, with which nothing is computed. Raise it, or leave it out.")
    if task.length_from and (timers or trainer.max_steps != -1):
        option = "fast_dev_run" if _is_trial(trainer) else "max_time" if timers else "max_steps"
        raise ConfigError(
            f"trainer.{option} would end {name} before it is complete: its length follows from {task.length_from}. "
            f"Leave {option} out."
        )
    if task.ends_by and (trainer.min_epochs or trainer.min_steps):
        option = "min_steps" if trainer.min_steps else "min_epochs"
        raise ConfigError(f"trainer.{option} cannot prolong {name}, which {task.ends_by} ends. Leave {option} out.")
    if not task.automatic_optimization and trainer.min_steps:
        raise ConfigError(
            f"trainer.min_steps is {trainer.min_steps}, of which Lightning would count two per batch of {name}. Use "
            "min_epochs."
        )
    overfit = getattr(trainer, "overfit_batches", 0)
    if overfit and (not task.overfits or synchronised(trainer)):
        where = name if not task.overfits else f"strategy {type(trainer.strategy).__name__}"
        raise ConfigError(
            f"trainer.overfit_batches is {overfit}, but {where} cannot repeat the same batches. "
            "Leave it out; --trainer.limit_train_batches shortens an epoch."
        )


def check_course(task: Task, trainer: Trainer) -> None:
    """Refuse a training of unknown length in which something follows the course.

    Args:
        task: The task.
        trainer: Its trainer.

    Raises:
        ConfigError: Something does.
    """
    if task.follows_course:
        of_batches = "" if trainer.max_epochs in (None, -1) else ", of epochs whose number of batches is unknown"
        raise ConfigError(
            f"trainer.max_epochs is {trainer.max_epochs}{of_batches}, but {task.follows_course} and must know its "
            f"number of steps. Set trainer.max_{'steps' if of_batches else 'epochs or max_steps'}; max_time may end it "
            "earlier."
        )


def check_processes(task: Task, trainer: Trainer) -> None:
    """Refuse strategies that distribute the task in a way that it does not know.

    Args:
        task: The task.
        trainer: Its trainer.

    Raises:
        ConfigError: The strategy is another one.
    """
    single = isinstance(trainer.strategy, SingleDeviceStrategy)
    if not single and not synchronised(trainer):
        raise ConfigError(
            f"trainer.strategy is {type(trainer.strategy).__name__}; tasks run on one device or by data parallelism. "
            "Use --trainer.strategy auto or ddp."
        )
    # with several processes, setup says why
    if not single and trainer.world_size == 1 and (task.one_process or not task.trains):
        raise ConfigError(
            f"trainer.strategy is {type(trainer.strategy).__name__}, but {type(task).__name__} runs in one process "
            "that has nothing to synchronise. Use --trainer.strategy auto."
        )


def check_gradients(task: Task, trainer: Trainer) -> None:
    """Refuse options for gradients that the trainer does not handle.

    Args:
        task: The task.
        trainer: Its trainer.

    Raises:
        ConfigError: Gradients are to be clipped or accumulated, but the trainer has none.
    """
    name = type(task).__name__
    clip, batches = trainer.gradient_clip_val, trainer.accumulate_grad_batches
    if task.trains and task.automatic_optimization:
        return
    if clip and task.trains:
        raise ConfigError(
            f"trainer.gradient_clip_val is {clip}, but {name} clips the gradients of its weights itself. Set "
            f"{task.clip_option} {clip} instead, and leave gradient_clip_val out."
        )
    if batches != 1 and task.trains:
        raise ConfigError(
            f"trainer.accumulate_grad_batches is {batches}, but {name} takes its steps itself, after every batch. Use "
            "a larger batch_size, and leave accumulate_grad_batches out."
        )
    if clip or batches != 1:
        option = f"gradient_clip_val is {clip}" if clip else f"accumulate_grad_batches is {batches}"
        raise ConfigError(
            f"trainer.{option}, but this {name} trains no weights by gradients of the trainer. Leave it out."
        )


def check_saving(trainer: Trainer) -> None:
    """Refuse checkpoints by a number of steps that is not one of batches.

    Args:
        trainer: The trainer of a task that steps its optimizers itself.

    Raises:
        ConfigError: There are several optimizers, and Lightning counts the steps of all.
    """
    optimizers = len(trainer.optimizers)
    for keeper in trainer.checkpoint_callbacks:
        steps = getattr(keeper, "_every_n_train_steps", 0)  # every batch has a step
        if optimizers > 1 and steps > 1:
            raise ConfigError(
                f"{type(keeper).__name__} has every_n_train_steps {steps}; Lightning counts the steps of all "
                f"{optimizers} optimizers, not batches. Leave it out, and set every_n_epochs, or --preemption."
                f"every_n_batches {steps} for a checkpoint to go on from."
            )


def check_alone(trainer: Trainer) -> None:
    """Refuse to change a supernet that several processes, or one by a distributed strategy, train.

    Args:
        trainer: The trainer of the search.

    Raises:
        ConfigError: Gradients are reduced over processes, which the present parameters are registered for.
    """
    if synchronised(trainer):
        raise ConfigError(
            f"The supernet cannot change while {trainer.world_size} processes train it by the strategy "
            f"{type(trainer.strategy).__name__}. Use --trainer.devices 1 --trainer.strategy auto."
        )
