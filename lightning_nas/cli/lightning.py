"""Lightning's commands ``fit``, ``validate``, ``test`` and ``predict`` for the tasks of this library."""

import logging
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from lightning_nas.callbacks.alpha_sync import AlphaSyncCheck
from lightning_nas.callbacks.preemption import PreemptionCheckpoint
from lightning_nas.callbacks.run_config import RunConfig
from lightning_nas.callbacks.run_folder import RunFolder
from lightning_nas.callbacks.step_seed import StepSeed
from lightning_nas.callbacks.wandb_log import WandbLog
from lightning_nas.cli.components import print_help
from lightning_nas.errors import CheckpointError, ConfigError, DataError, NASError
from lightning_nas.files.checkpoints import CHECKPOINT_KEY, read_checkpoint

_SCHEDULERS = ("scheduler", "weight_scheduler", "alpha_scheduler")


class NASCLI(LightningCLI):
    """``LightningCLI`` with both subclass modes, links between parts of the configuration, and checked checkpoints.

    The number of classes and the image shape of the data are linked to the task, and ``trainer.max_epochs`` to
    ``T_max`` of cosine schedules.

    Args:
        args: Command line without the program's name; by default that of the process.
        run: Whether to run the subcommand. If not, the arguments have no subcommand, nothing is built, and a wrong
            argument raises ``argparse.ArgumentError`` instead of leaving the process.
        guarded: Whether to add the callbacks that guard results: the lock of the run folder, the comparison of alphas
            between processes, and random numbers that depend on epoch and batch alone.
    """

    def __init__(self, args: ArgsType = None, run: bool = True, guarded: bool = True) -> None:
        self.build = run
        guards: list[Callback] = [RunFolder(), AlphaSyncCheck(), StepSeed()] if guarded else []
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
            parser_kwargs={"allow_abbrev": False, "exit_on_error": run},
            # the tasks save no hyperparameters, so that Lightning lets the configuration win over a checkpoint
            load_from_checkpoint_support=False,
            trainer_defaults={"callbacks": guards},
            args=args,
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add options of this library, and links from the part that knows a value to the part that needs it."""
        parser.add_argument(
            "--num_threads",
            type=PositiveInt | None,
            default=None,
            help="CPU threads of torch (default: torch's own choice). On small images one is often the fastest.",
        )
        parser.add_lightning_class_args(PreemptionCheckpoint, "preemption")
        parser.add_lightning_class_args(WandbLog, "wandb_log")
        for name in ("num_classes", "image_shape"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        for name in _SCHEDULERS:
            parser.link_arguments("trainer.max_epochs", f"model.init_args.{name}.init_args.T_max")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, and refuse a checkpoint of another task or of other components.

        Args:
            parser: Parser of the command line.
            args: Command line without the program's name; by default that of the process.

        Raises:
            CheckpointError: The checkpoint was made with other classes than the configuration names, or by another
                program.
            ConfigError: ``weights_only`` is false.
        """
        super().parse_arguments(parser, args)
        if not self.build:
            return
        config = self.config[self.config.subcommand]
        if config.get("weights_only") is False:
            raise ConfigError(
                "weights_only is false, which would execute code from a checkpoint. Leave it out: checkpoints of "
                "'lightning-nas fit' don't need it."
            )
        config.weights_only = True  # also for checkpoints that Lightning finds or downloads itself
        path = config.get("ckpt_path")
        words = ("best", "last", "hpc", "registry")  # Lightning finds these checkpoints itself
        found = path in words or str(path).startswith("registry:") or "://" in str(path)
        if path and (not found or Path(path).is_file()):  # Lightning also accepts a file of such a name
            asked = class_paths(config.model.as_dict(), "model")
            check_classes(Path(path), asked)

    def instantiate_classes(self) -> None:
        """Build task, data and trainer, unless the configuration is only checked."""
        if self.build:
            threads = self.config[self.config.subcommand].num_threads
            if threads is not None:
                torch.set_num_threads(threads)
            super().instantiate_classes()


def class_paths(config: Any, where: str) -> dict[str, str]:
    """Collect every ``class_path`` of a configuration.

    Args:
        config: The configuration, or a part of it.
        where: Dotted name of the part.

    Returns:
        Class paths by the dotted name of their place, without ``init_args``.
    """
    found = {}
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        if key == "class_path":
            found[where] = str(value)
        else:
            found |= class_paths(value, where if key == "init_args" else f"{where}.{key}")
    return found


def check_classes(path: Path, asked: Mapping[str, str]) -> None:
    """Compare the classes of a configuration with those that a checkpoint was made with.

    Args:
        path: The checkpoint.
        asked: Class paths of the configuration, from ``class_paths``.

    Raises:
        CheckpointError: The classes differ.
    """
    checkpoint = read_checkpoint(path)
    try:
        made = class_paths(checkpoint[CHECKPOINT_KEY]["model"], "model")
    except RecursionError:
        raise CheckpointError(f"{path}: its configuration is nested too deeply. Use another checkpoint.") from None
    places = [place for place in {**made, **asked} if made.get(place) != asked.get(place)]
    if places:
        rows = "; ".join(f"{p}: {made.get(p)} in the checkpoint, {asked.get(p)} in the configuration" for p in places)
        raise CheckpointError(
            f"{path} is not a checkpoint of this configuration: {rows:.2000}. --ckpt_path continues or tests the same "
            "task; results pass from stage to stage as artifacts (proxy.safetensors, architecture.json)."
        )


_NOISE = (
    "LightningCLI's args parameter is intended",  # a pipeline runs its stages in one process on purpose
    ".*isinstance\\(treespec, LeafSpec\\)",  # Lightning's use of torch
    ".*number of training batches .* is smaller than the logging interval",  # curves are those of epochs
    ".*but have no `val_dataloader`",  # a final training has no validation set unless it is asked for
    "Starting from v1.9.0, `tensorboardX` has been removed",  # curves go to CSV files
    ".*does not have many workers",  # small data sets are one tensor in memory
    "`LightningModule.configure_optimizers` returned `None`",  # a control has nothing to train
    "`training_step` returned `None`",  # a control has nothing to train
    ".*Experiment logs directory .* exists and is not empty",  # a resumed run
    ".*Checkpoint directory .* exists and is not empty",  # a resumed run
    "The dirpath has changed from",  # a resumed run
)


def run(args: list[str] | None = None, make: Callable[..., NASCLI] = NASCLI) -> NASCLI:
    """Run one of Lightning's commands, without the warnings that don't matter here.

    Args:
        args: Command line without the program's name; by default that of the process.
        make: Builds and runs the command line interface; called as ``make(args=args)``.

    Raises:
        SystemExit: Help was asked for, and has been printed.
        NASError: A constructor has refused its arguments.
        ConfigError: Lightning has refused the configuration.
        DataError: A worker process of a data loader has died.
    """
    if print_help(sys.argv[1:] if args is None else args):
        raise SystemExit(0)
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(_is_no_advert)
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message)
        try:
            return make(args=args)
        except MisconfigurationException as error:
            raise ConfigError(f"Lightning refuses the configuration: {error}") from error
        except ValueError as error:  # the parser wraps the error of a constructor in one about the union of types
            found = _typed(error)
            if found is None:
                raise
            raise found from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"A process that reads images has died: {error}. The usual cause is a lack of memory, or of shared "
                "memory in /dev/shm. Use fewer num_workers, 0 for none, or smaller batches; a run continues from its "
                "last checkpoint."
            ) from error


def _typed(error: BaseException | None) -> NASError | None:
    """Find the typed error behind another one."""
    while error is not None and not isinstance(error, NASError):
        error = error.__cause__ or error.__context__
    return error


def _is_no_advert(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def check_config(path: Path) -> None:
    """Parse a configuration of ``fit`` without building anything.

    Args:
        path: YAML file of the configuration.

    Raises:
        ConfigError: A key is unknown or a value of a wrong type.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _NOISE[0])
        try:
            NASCLI(args=["--config", str(path)], run=False)
        except ArgumentError as error:
            raise ConfigError(f"{path.name}: {' '.join(str(error).split()):.2000}") from None
