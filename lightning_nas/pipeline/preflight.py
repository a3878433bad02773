"""What the stages of a pipeline need, checked before the first of them starts."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from pydoc import locate
from typing import Any, get_type_hints

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lightning_nas.callbacks.monitor_check import check_monitor
from lightning_nas.cli.lightning import build, build_trainer
from lightning_nas.distill.base import Scheme
from lightning_nas.errors import ConfigError, DataError, NASError
from lightning_nas.evaluation.base import Evaluator
from lightning_nas.files.checkpoints import local_path, read_checkpoint
from lightning_nas.files.locks import lock
from lightning_nas.pipeline.stages import Stage
from lightning_nas.tasks.base import Task

Promised = dict[str, tuple[Tensor, Tensor, list[str]] | None]
"""Labels, groups and class names of the proxies that stages will make, by path; None where they are not known."""


_PRECISIONS = {"None": "32-true", "64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""What Lightning's short names of precisions stand for."""


def check_needs(stages: Mapping[str, Stage], parsed: Mapping[str, Namespace], run_dir: Path) -> dict[str, int]:
    """Check data and trainer of every stage, what its callbacks monitor, and that its folders can be written to.

    Lightning itself says whether the machine has what a trainer asks for, and every component what it needs of the
    images. Data are listed, not read, where that is possible. A proxy that an earlier stage will make is known by its
    scheme.

    Args:
        stages: Stages that are not done, by name.
        parsed: Their configurations with all defaults, by name.
        run_dir: Run folder, which can be written to.

    Returns:
        Number of training images by stage, where it is known.

    Raises:
        NASError: A stage would fail; the message names it.
    """
    promised: Promised = {}
    images: dict[str, int] = {}
    writers: dict[Path, str] = {}
    folders = [folder.absolute() for folder in _folders(stages)]
    for name, stage in stages.items():
        config = parsed[name]
        try:
            trainer = build_trainer(config.trainer)
            data = build(LightningDataModule, config.data)
            validates = _check_data(data, trainer, stage.test, promised) and config.trainer.limit_val_batches != 0
            if hasattr(data, "list_parts") and _keep_promise(data, promised):
                images[name] = len(data.list_parts()[0])
            _check_trainer(class_of(config.model.class_path), config.trainer.precision, trainer.world_size)
            _check_monitors(config, validates)
            _check_arguments(config, data, promised)
            _check_initial_weights(config.model.init_args.get("initial_weights"), [run_dir, *folders])
            _check_evaluators(config.model.init_args, promised)
            promised |= _check_scheme(data, config.model.init_args)
            _check_writes(name, config, writers)
        except NASError as error:
            error.args = (f"Stage {name}: {error}",)
            raise
    for folder in dict.fromkeys(folders):
        if not folder.is_relative_to(run_dir):
            lock(folder).release()
    return images


def _check_data(data: Any, trainer: Trainer, test: bool, promised: Promised) -> bool:
    """Check the data of a stage, and return whether it will have a validation set, as far as that can be known."""
    if not _keep_promise(data, promised):
        return False
    if hasattr(data, "check"):
        return bool(data.check(trainer.world_size, test))
    if test and not _has(data, "test_dataloader"):
        raise DataError(f"{type(data).__name__} has no test_dataloader, which the test of this stage needs. Add it.")
    return _has(data, "val_dataloader")


def _keep_promise(data: Any, promised: Promised) -> bool:
    """Tell data of a proxy that an earlier stage will make which images it will have.

    Returns:
        Whether the images of the data can be listed.
    """
    path = str(getattr(data, "proxy_path", ""))
    if path not in promised:
        return True
    made = promised[path]
    if made is not None:
        data.promise(*made)
    return made is not None


def _check_evaluators(arguments: Any, promised: Promised) -> None:
    """Check the images of all evaluators in the arguments of a task."""
    for config in _components(arguments, Evaluator):
        evaluator = build(Evaluator, config)
        try:
            if all(map(partial(_keep_promise, promised=promised), evaluator.data_modules())):
                evaluator.check()
        finally:
            evaluator.close()


def _components(node: Any, base: type) -> Iterator[Namespace]:
    """The configurations of all components of a family, without those inside of others."""
    if isinstance(node, Namespace):
        path = node.get("class_path")
        if isinstance(path, str) and issubclass(class_of(path), base):
            yield node
            return
        node = list(vars(node).values())
    elif isinstance(node, Mapping):
        node = list(node.values())
    for part in node if isinstance(node, list) else ():
        yield from _components(part, base)


def _has(data: LightningDataModule, hook: str) -> bool:
    """Whether a data module overrides a hook of Lightning's class."""
    return getattr(type(data), hook) is not getattr(LightningDataModule, hook)


def _check_trainer(task: Any, given: Any, processes: int) -> None:
    """Refuse a precision that a task does not compute with, and several processes for a task that runs in one."""
    precision = _PRECISIONS.get(str(given), str(given))
    allowed = getattr(task, "precisions", (precision,))
    if precision not in allowed:
        raise ConfigError(
            f"The trainer has precision {precision}; {task.__name__} computes with one of {', '.join(allowed)}. Set "
            "trainer.precision of this stage."
        )
    if processes > 1 and getattr(task, "one_process", False):
        raise ConfigError(
            f"There are {processes} processes; {task.__name__} runs in one. Set trainer.devices and trainer.num_nodes "
            "of this stage to 1."
        )


def _check_scheme(data: Any, arguments: Namespace) -> Promised:
    """Check that there are images to distill, and return the proxy that the stage will make, by path."""
    scheme, folder = arguments.get("scheme"), arguments.get("output_dir")
    if scheme is None:
        return {}
    made = None
    if hasattr(data, "list_parts"):
        images = data.list_parts()[0]
        names = images.class_names
        built = build(Scheme, scheme)
        built.check(images.labels, len(names))
        if (layout := built.layout(len(names))) is not None:
            made = (*layout, names)
    return {} if folder is None else {str(Path(folder) / "proxy.safetensors"): made}


def _check_monitors(config: Namespace, validates: bool) -> None:
    """Refuse callbacks that monitor a metric which the stage will not have."""
    task = class_of(config.model.class_path)
    callbacks = [
        (class_of(each.class_path), each.get("init_args", {}))
        if isinstance(each, Namespace)
        else (type(each), vars(each))
        for each in config.trainer.callbacks or ()  # a path may also name an object
    ]
    if not hasattr(task, "metrics_logged"):
        return
    arguments = config.model.init_args.as_dict()
    metrics = [*(task.metrics_of(arguments) if issubclass(task, Task) else task.metrics_logged)]
    metrics += [name for kind, _ in callbacks for name in getattr(kind, "metrics_logged", ())]
    validates = validates and task.validation_step is not LightningModule.validation_step
    for kind, arguments in callbacks:
        if monitor := arguments.get("monitor"):
            check_monitor(kind.__name__, monitor, metrics, validates)


def _check_arguments(config: Namespace, data: Any, promised: Promised) -> None:
    """Refuse arguments of a task that do not fit its data, as far as these are known."""
    task = class_of(config.model.class_path)
    if issubclass(task, Task) and _keep_promise(data, promised):
        task.check_arguments(config.model.init_args.as_dict(), data)


def _check_initial_weights(path: str | None, folders: Sequence[Path]) -> None:
    """Refuse initial weights on this machine that cannot be read, unless a stage may still write them."""
    local = None if path is None else local_path(path)
    if local is None or (not local.exists() and any(map(local.absolute().is_relative_to, folders))):
        return
    read_checkpoint(local, option="initial_weights of this stage")


def _check_writes(name: str, config: Namespace, writers: dict[Path, str]) -> None:
    """Refuse a stage that would replace the artifacts of an earlier one; ``writers`` are the stages so far, by file."""
    folder = config.model.init_args.get("output_dir")
    files = [Path(folder) / file for file in getattr(class_of(config.model.class_path), "writes", ())] if folder else []
    for file in files:
        if file in writers:
            raise ConfigError(f"It would replace {file}, which stage {writers[file]} writes. Set another output_dir.")
    writers |= dict.fromkeys(files, name)


def class_of(path: str) -> Any:
    """The class that a full class path names, or that the function which it names is annotated to return.

    Args:
        path: The class path.
    """
    found: Any = locate(path)
    return found if isinstance(found, type) else get_type_hints(found).get("return", object)


def _folders(stages: Mapping[str, Stage]) -> Iterator[Path]:
    """Folders that the stages will write to."""
    for stage in stages.values():
        if folder := stage.arguments.get("output_dir"):
            yield Path(folder)
        for callback in stage.config["trainer"]["callbacks"]:
            if isinstance(callback, dict) and (folder := (callback.get("init_args") or {}).get("dirpath")):
                yield Path(folder)
