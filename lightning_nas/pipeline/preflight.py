"""What the stages of a pipeline need, checked before the first of them starts."""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

from lightning_nas.callbacks.monitor_check import check_monitor
from lightning_nas.callbacks.run_folder import lock
from lightning_nas.cli.lightning import build
from lightning_nas.distill.base import Scheme
from lightning_nas.errors import ConfigError, DataError, NASError
from lightning_nas.pipeline.stages import Stage
from lightning_nas.tasks.base import Task

Promised = dict[str, tuple[Tensor, Tensor, list[str]] | None]
"""Labels, groups and class names of the proxies that stages will make, by path; None where they are not known."""


_PRECISIONS = {"None": "32-true", "64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""What Lightning's short names of precisions stand for."""


def check_needs(stages: Mapping[str, Stage], parsed: Mapping[str, Namespace], run_dir: Path) -> None:
    """Check data and trainer of every stage, what its callbacks monitor, and that its folders can be written to.

    Data are listed, not read, where that is possible. A proxy that an earlier stage will make is known by its scheme.

    Args:
        stages: Stages that are not done, by name.
        parsed: Their configurations with all defaults, by name.
        run_dir: Run folder, which can be written to.

    Raises:
        NASError: A stage would fail; the message names it.
    """
    promised: Promised = {}
    writers: dict[Path, str] = {}
    for name, stage in stages.items():
        config = parsed[name]
        try:
            data = build(LightningDataModule, config.data)
            validates = _check_data(data, config.trainer, stage.test, promised)
            _check_trainer(_class(config.model.class_path), config.trainer)
            _check_monitors(config, validates)
            promised |= _promises(data, config.model.init_args)
            _check_writes(name, config, writers)
        except NASError as error:
            error.args = (f"Stage {name}: {error}",)
            raise
    for folder in dict.fromkeys(folder.absolute() for folder in _folders(stages)):
        if not folder.is_relative_to(run_dir):
            lock(folder).release()


def processes(trainer: Namespace) -> int:
    """Number of processes of a fit.

    Args:
        trainer: Arguments of the trainer.
    """
    devices = trainer.devices
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if devices in ("auto", -1):
        devices = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 1
    elif isinstance(devices, str):
        devices = devices.split(",")
    count = devices if isinstance(devices, int) else len([each for each in devices if str(each).strip()])
    return max(count, 1) * int(trainer.num_nodes)


def _check_data(data: Any, trainer: Namespace, test: bool, promised: Promised) -> bool:
    """Check the data of a stage, and return whether it will have a validation set, as far as that can be known."""
    path = str(getattr(data, "proxy_path", ""))
    if path in promised:
        made = promised[path]
        if made is None:
            return False
        data.promise(*made)
    if hasattr(data, "check"):
        validates = bool(data.check(processes(trainer), test))
    else:
        validates = _has(data, "val_dataloader")
        if test and not _has(data, "test_dataloader"):
            raise DataError(
                f"{type(data).__name__} has no test_dataloader, which the test of this stage needs. Add it."
            )
    return validates and trainer.limit_val_batches != 0


def _has(data: LightningDataModule, hook: str) -> bool:
    """Whether a data module overrides a hook of Lightning's class."""
    return getattr(type(data), hook) is not getattr(LightningDataModule, hook)


def _check_trainer(task: Any, trainer: Namespace) -> None:
    """Refuse a precision that a task does not compute with, and several processes for a task that runs in one."""
    precision = _PRECISIONS.get(str(trainer.precision), str(trainer.precision))
    allowed = getattr(task, "precisions", (precision,))
    if precision not in allowed:
        raise ConfigError(
            f"The trainer has precision {precision}; {task.__name__} computes with one of {', '.join(allowed)}. Set "
            "trainer.precision of this stage."
        )
    count = processes(trainer)
    if count > 1 and getattr(task, "one_process", False):
        raise ConfigError(
            f"There are {count} processes; {task.__name__} runs in one. Set trainer.devices and trainer.num_nodes of "
            "this stage to 1."
        )


def _promises(data: Any, arguments: Namespace) -> Promised:
    """The proxy that a stage will make, by path."""
    scheme, folder = arguments.get("scheme"), arguments.get("output_dir")
    if scheme is None or folder is None:
        return {}
    names = data.list_parts()[0].class_names if hasattr(data, "list_parts") else []
    layout = build(Scheme, scheme).layout(len(names)) if names else None
    return {str(Path(folder) / "proxy.safetensors"): None if layout is None else (*layout, names)}


def _check_monitors(config: Namespace, validates: bool) -> None:
    """Refuse callbacks that monitor a metric which the stage will not have."""
    task = _class(config.model.class_path)
    callbacks = [(_class(each.class_path), each.get("init_args", {})) for each in config.trainer.callbacks or ()]
    if not hasattr(task, "metrics_logged"):
        return
    arguments = config.model.init_args.as_dict()
    metrics = [*(task.metrics_of(arguments) if issubclass(task, Task) else task.metrics_logged)]
    metrics += [name for kind, _ in callbacks for name in getattr(kind, "metrics_logged", ())]
    validates = validates and task.validation_step is not LightningModule.validation_step
    for kind, arguments in callbacks:
        if monitor := arguments.get("monitor"):
            check_monitor(kind.__name__, monitor, metrics, validates)


def _check_writes(name: str, config: Namespace, writers: dict[Path, str]) -> None:
    """Refuse a stage that would replace the artifacts of an earlier one; ``writers`` are the stages so far, by file."""
    folder = config.model.init_args.get("output_dir")
    files = [Path(folder) / file for file in getattr(_class(config.model.class_path), "writes", ())] if folder else []
    for file in files:
        if file in writers:
            raise ConfigError(f"It would replace {file}, which stage {writers[file]} writes. Set another output_dir.")
    writers |= dict.fromkeys(files, name)


def _class(path: str) -> Any:
    """The class of a full class path, whose module is imported by now."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _folders(stages: Mapping[str, Stage]) -> Iterator[Path]:
    """Folders that the stages will write to."""
    for stage in stages.values():
        if folder := stage.arguments.get("output_dir"):
            yield Path(folder)
        for callback in stage.config["trainer"]["callbacks"]:
            if isinstance(callback, dict) and (folder := (callback.get("init_args") or {}).get("dirpath")):
                yield Path(folder)
