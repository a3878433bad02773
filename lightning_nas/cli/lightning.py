"""Lightning's commands ``fit``, ``validate``, ``test`` and ``predict`` for the tasks of this library."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from pydoc import locate
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy

from lightning_nas.callbacks.alpha_sync import AlphaSyncCheck
from lightning_nas.callbacks.media_log import MediaLog
from lightning_nas.callbacks.monitor_check import MonitorCheck
from lightning_nas.callbacks.p_darts import PDARTSPhases
from lightning_nas.callbacks.prediction_file import PredictionFile
from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.callbacks.progress_lines import TimeEstimate, progress_bar
from lightning_nas.callbacks.rank_watch import RankWatch
from lightning_nas.callbacks.resume_check import ResumeCheck
from lightning_nas.callbacks.run_config import RunConfig
from lightning_nas.callbacks.run_folder import RunFolder
from lightning_nas.callbacks.step_seed import StepSeed
from lightning_nas.callbacks.wandb_log import WandbLog
from lightning_nas.cli.components import print_help
from lightning_nas.cli.config_files import with_config_paths
from lightning_nas.cli.parsing import OneParagraphParser, check_are_classes, class_paths, given_class_paths
from lightning_nas.cli.quiet import NOISE, is_of_use, quiet
from lightning_nas.cli.refusals import refusal, typed
from lightning_nas.cli.results import describe_outputs
from lightning_nas.data.dummy import DummyDataModule
from lightning_nas.errors import CheckpointError, ConfigError
from lightning_nas.files.checkpoints import CHECKPOINT_KEY, local_path, read_checkpoint
from lightning_nas.files.classes import class_path, import_modules, import_plugins
from lightning_nas.terminal import tell

_MATMUL_PRECISION = torch.get_float32_matmul_precision()
"""What a run without ``matmul_precision`` computes with, whatever ran before it in the same process."""

_SCHEDULERS = ("scheduler", "weight_scheduler", "alpha_scheduler")

# a class path within an argument of any type stays a value: nothing checks what it would make
set_parsing_settings(instantiate_subclass_spec_in_any=False)
# the parser refuses to import what its own list denies, such as modules that run commands
set_parsing_settings(import_path_denylist=[])


class NASCLI(LightningCLI):
    """``LightningCLI`` with both subclass modes, links between parts of the configuration, and checked checkpoints.

    The number of classes and the image shape of the data are linked to the task, and ``trainer.max_epochs`` to
    ``T_max`` of cosine schedules.

    Args:
        args: Command line without the program's name; by default that of the process.
        run: Whether to run the subcommand. If not, the arguments have no subcommand, and nothing is built.
        guarded: Whether to add the callbacks that guard results: the lock of the run folder, the comparison of alphas
            between processes, and random numbers that depend on epoch and batch alone.
    """

    def __init__(self, args: ArgsType = None, run: bool = True, guarded: bool = True) -> None:
        self.build = run
        self.guarded = guarded
        given = sys.argv[1:] if args is None else args
        import_plugins()  # configurations name their classes like those of this library
        self.asked = given[0] if isinstance(given, list) and given else None
        guards = (
            [ResumeCheck(), MonitorCheck(), AlphaSyncCheck(), StepSeed(), PredictionFile(), RankWatch(), TimeEstimate()]
            if guarded
            else []
        )
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=RunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            # an abbreviation would accept a misspelt key
            parser_kwargs={"allow_abbrev": False},
            parser_class=OneParagraphParser,
            # the tasks save no hyperparameters, so that Lightning lets the configuration win over a checkpoint
            load_from_checkpoint_support=False,
            trainer_defaults={"callbacks": guards},
            args=args,
            run=run,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's has no use for self
        """The subcommand that was asked for: a parser takes long to make, and Lightning makes one for each."""
        every = super().subcommands()
        return {self.asked: every[self.asked]} if self.asked in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add options of this library, and links from the part that knows a value to the part that needs it."""
        parser.add_argument(
            "--num_threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads of torch (default: torch's own choice). On small images one is often the fastest.",
        )
        parser.add_argument(
            "--matmul_precision",
            type=Literal["highest", "high", "medium"] | None,
            default=None,
            help="Precision of float32 matrix products on a GPU: highest keeps all 24 bits; high rounds to "
            "TensorFloat-32 and medium to bfloat16, which are faster (default: PyTorch's own choice, highest).",
        )
        parser.add_argument(
            "--imports",
            type=str | list[str],
            default=[],
            help="Modules to import first: those of your own classes which are named by an artifact that is read, and "
            "not by the configuration. --import MODULE adds one.",
        )
        if self.guarded:
            parser.add_lightning_class_args(RunFolder, "run_folder")
        else:
            parser.add_class_arguments(RunFolder, "run_folder", instantiate=False)
        parser.add_lightning_class_args(PreemptionCheckpoint, "preemption")
        parser.add_lightning_class_args(WandbLog, "wandb_log")
        parser.add_lightning_class_args(MediaLog, "media_log")
        for name, compute in (("num_classes", self._num_classes), ("image_shape", self._image_shape)):
            parser.link_arguments("data", f"model.init_args.{name}", compute_fn=compute, apply_on="instantiate")
        for name in _SCHEDULERS:
            target = f"model.init_args.{name}.init_args.T_max"
            source = ("trainer.max_epochs", "data", "trainer.callbacks")
            parser.link_arguments(source, target, compute_fn=schedule_length)

    def _num_classes(self, data: Any) -> int | None:
        """The number of classes of the data, for tasks that take it."""
        return self._of_data(data)[0] if self._takes("num_classes") else None

    def _image_shape(self, data: Any) -> tuple[int, int, int] | None:
        """The shape of the images, for tasks that take it."""
        return self._of_data(data)[1] if self._takes("image_shape") else None

    @property
    def command_config(self) -> Namespace:
        """The configuration of the subcommand, or of a fit that is only checked."""
        config: Namespace = self.config[self.config.subcommand] if self.build else self.config
        return config

    def _takes(self, name: str) -> bool:
        """Whether the configured task has an argument."""
        return name in self.command_config.model.init_args

    def _of_data(self, data: Any) -> tuple[int, tuple[int, int, int]]:
        """The number of classes of a data module, and the shape of its images.

        Raises:
            ConfigError: The data module does not say what the task needs.
        """
        task = self.command_config.model.class_path.rpartition(".")[2]
        classes, shape = getattr(data, "num_classes", None), getattr(data, "image_shape", None)
        wrong = []
        if self._takes("num_classes") and not _is_count(classes):
            wrong.append("no num_classes" if classes is None else f"num_classes = {classes!r:.50}")
        if self._takes("image_shape") and not _is_shape(shape):
            wrong.append("no image_shape" if shape is None else f"image_shape = {shape!r:.50}")
        if wrong:
            raise ConfigError(
                f"{task} needs to know the classes and images of {type(data).__name__}, which has "
                f"{' and '.join(wrong)}. Give the data module two attributes in its constructor: num_classes, the "
                "number of classes, such as self.num_classes = 10, and image_shape, (channels, height, width), such as "
                "self.image_shape = (3, 32, 32)."
            )
        return classes, shape  # type: ignore[return-value]  # of a task that doesn't take one, it may be None

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, and refuse what would call anything but a class, or a checkpoint of another task.

        Args:
            parser: Parser of the command line.
            args: Command line without the program's name; by default that of the process.

        Raises:
            CheckpointError: The checkpoint was made with other classes than the configuration names, or by another
                program.
            ConfigError: An argument is unknown or wrong, a ``class_path`` does not name a class, the seed is out of its
                range, or ``weights_only`` is false.
        """
        if not isinstance(args, dict | Namespace):
            check_are_classes(given_class_paths(with_config_paths(sys.argv[1:] if args is None else args)))
        super().parse_arguments(parser, args)
        config = self.command_config
        parts = config.as_dict()
        for key in ("model", "data", "trainer"):
            check_are_classes(class_paths(parts.get(key), key))
        check_seed(config.get("seed_everything"))
        import_modules(config.imports)
        if not self.build:
            return
        if config.get("weights_only") is False:
            raise ConfigError(
                "weights_only is false, which would execute code from a checkpoint. Leave it out: checkpoints of "
                "'lightning-nas fit' don't need it."
            )
        if self.config.subcommand == "predict" and not config.get("ckpt_path"):
            raise ConfigError("predict needs the weights of a training. Name its checkpoint by --ckpt_path.")
        config.weights_only = True  # also for checkpoints that Lightning finds itself
        path = config.get("ckpt_path")
        words = ("best", "last", "hpc", "registry")  # Lightning finds these checkpoints itself
        found = path in words or str(path).startswith("registry:")
        if path and (not found or Path(path).is_file()):  # Lightning also accepts a file of such a name
            asked = class_paths(config.model.as_dict(), "model")
            task = locate(config.model.class_path)
            check_classes(path, asked, [f"model.{name}" for name in getattr(task, "reads_anew", ())])
            local = local_path(path)
            if local is not None:  # Lightning recognises the file it resumes from, and keeps it, by its path alone
                config.ckpt_path = str(local)

    def instantiate_classes(self) -> None:
        """Build task, data and trainer, unless the configuration is only checked.

        Raises:
            NASError: A constructor of this library has refused its arguments.
            ConfigError: Another constructor has, or needs a package that is not installed.
        """
        if not self.build:
            return
        config = self.command_config
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        torch.set_float32_matmul_precision(config.matmul_precision or _MATMUL_PRECISION)
        try:
            super().instantiate_classes()
        except (TypeError, ValueError, ImportError) as error:
            raise refusal(error) from error

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Make the trainer, with a progress bar that suits the output where none was configured.

        With one process, ``ddp`` has nothing to reduce, and one device does the same.
        """
        trainer_config = self.config_init[self.config.subcommand].trainer
        given = trainer_config.callbacks
        configured = list(given) if isinstance(given, list) else [] if given is None else [given]
        if trainer_config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in configured):
            configured.append(progress_bar())

        def make(**more: Any) -> Trainer:  # with a list of its own, to which Lightning adds
            return super(NASCLI, self).instantiate_trainer(**{"callbacks": list(configured), **options, **more})

        trainer = make()
        alone = trainer.world_size == 1 and isinstance(trainer.strategy, DDPStrategy)
        return make(strategy="auto") if alone else trainer

    def after_fit(self) -> None:
        """Say what a task has written; Lightning calls this where a fit has come to its end."""
        outputs = getattr(self.model, "outputs", None)
        if outputs and self.trainer.is_global_zero:
            tell(describe_outputs(outputs))


def schedule_length(max_epochs: int | None, data: Any, callbacks: Any = None) -> int | None:
    """The number of steps of a cosine schedule: one per epoch, or one per step of a ``DummyDataModule``.

    In a search by ``PDARTSPhases``, every phase has its own schedule.

    Args:
        max_epochs: Number of epochs of the training.
        data: Configuration of the data.
        callbacks: Configuration of the callbacks.
    """
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(callback, Namespace) and callback.get("class_path") == class_path(PDARTSPhases):
            max_epochs = max_epochs and max_epochs // len(callback.get("init_args.cells") or [0])
    arguments = data.get("init_args") if isinstance(data, Namespace) else None
    if max_epochs is None or arguments is None or data.class_path != class_path(DummyDataModule):
        return max_epochs
    return max_epochs * int(arguments.steps)


def _is_count(value: Any) -> bool:
    """Whether a value is a positive integer, also one of NumPy."""
    return isinstance(value, Integral) and int(value) > 0


def _is_shape(shape: Any) -> bool:
    """Whether a value is ``(channels, height, width)``."""
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 3:
        return False
    return all(map(_is_count, shape))


def check_seed(seed: bool | int | None) -> None:
    """Refuse seeds that random generators refuse.

    Args:
        seed: The seed; true takes that of the environment variable ``PL_GLOBAL_SEED``, or any where it is not set.

    Raises:
        ConfigError: The seed is not an integer in the range.
    """
    name = "seed_everything"
    given: Any = seed
    if seed is True and "PL_GLOBAL_SEED" in os.environ:
        name, given = "The environment variable PL_GLOBAL_SEED", os.environ["PL_GLOBAL_SEED"]
        with suppress(ValueError):
            given = int(given)
    if given is None or isinstance(given, bool):
        return
    if not isinstance(given, int) or not 0 <= given < 2**32:
        raise ConfigError(f"{name} is {given!r:.50}; a seed must be an integer from 0 to {2**32 - 1}.")


def check_classes(path: str | Path, asked: Mapping[str, str], free: Sequence[str] = ()) -> None:
    """Compare the classes of a configuration with those that a checkpoint was made with.

    Args:
        path: Path or URL of the checkpoint.
        asked: Class paths of the configuration, from ``class_paths``.
        free: Places below which classes may differ.

    Raises:
        CheckpointError: The classes differ.
    """
    checkpoint = read_checkpoint(path)
    try:
        made = class_paths(checkpoint[CHECKPOINT_KEY]["model"], "model")
    except RecursionError:
        raise CheckpointError(f"{path}: its configuration is nested too deeply. Use another checkpoint.") from None
    below = tuple(f"{place}." for place in free)
    places = [p for p in {**made, **asked} if made.get(p) != asked.get(p) and not p.startswith(below)]
    if places:
        rows = "; ".join(f"{p}: {made.get(p)} in the checkpoint, {asked.get(p)} in the configuration" for p in places)
        raise CheckpointError(
            f"{path} is not a checkpoint of this configuration: {rows:.2000}. --ckpt_path continues or tests the same "
            "task; results pass from stage to stage as artifacts (proxy.safetensors, architecture.json)."
        )


def run(args: list[str] | None = None, make: Callable[..., NASCLI] = NASCLI) -> NASCLI:
    """Run one of Lightning's commands, without the warnings that don't matter here.

    Args:
        args: Command line without the program's name; by default that of the process.
        make: Builds and runs the command line interface; called as ``make(args=args)``.

    Raises:
        SystemExit: Help was asked for, and has been printed.
        NASError: The configuration has been refused, or the command has failed.
        DataError: A worker process of a data loader has died.
    """
    if print_help(sys.argv[1:] if args is None else args):
        raise SystemExit(0)
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.addFilter(is_of_use)
    with warnings.catch_warnings():
        for message in NOISE:
            warnings.filterwarnings("ignore", message)
        try:
            return make(args=args)
        except Exception as error:
            found = typed(error)
            if found is None:
                raise
            raise found from error


def check_config(path: Path) -> Namespace:
    """Parse a configuration of ``fit`` without building anything.

    Args:
        path: YAML file of the configuration.

    Returns:
        The configuration with the full names of its classes and the defaults of their arguments.

    Raises:
        ConfigError: A key is unknown or a value of a wrong type.
    """
    seeds = logging.getLogger("lightning.fabric.utilities.seed")
    with warnings.catch_warnings(), quiet(seeds):  # nothing is drawn
        warnings.filterwarnings("ignore", NOISE[0])
        try:
            parsed: Namespace = NASCLI(args=["--config", str(path)], run=False).config
        except ConfigError as error:
            raise ConfigError(f"{path.name}: {error}") from None
    return parsed


def build_trainer(config: Namespace) -> Trainer:
    """Build a trainer that logs nothing, to find what Lightning refuses on this machine.

    Args:
        config: Its part of what ``check_config`` returned.

    Raises:
        ConfigError: A device, a strategy or another option of the trainer cannot be had.
    """
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer")
    given = {**vars(config), "logger": False, "profiler": None}
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings(), quiet(log):  # the stage itself says what is unusual about its trainer
        warnings.simplefilter("ignore")
        try:
            made: Trainer = parser.instantiate(parser.parse_object({"trainer": given})).trainer
        except Exception as error:  # a callback may raise anything
            raise typed(error) or refusal(error) from None
    return made


def build(base: type, config: Any) -> Any:
    """Build one component of a configuration.

    Args:
        base: Base class of the component.
        config: Its part of what ``check_config`` returned.

    Raises:
        NASError: Its constructor has refused its arguments.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "component")
    try:
        return parser.instantiate(parser.parse_object({"component": config})).component
    except Exception as error:  # a constructor may raise anything
        raise refusal(error) from None
