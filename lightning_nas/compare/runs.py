"""The runs of a study: every entry with every seed on every data set, each a chain of fits in its own folder."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc import locate
from typing import Any

from lightning_nas.cli.components import BASES, members
from lightning_nas.cli.components import arguments as class_arguments
from lightning_nas.cli.config_files import find_config
from lightning_nas.compare.config import Arguments, datasets, seeds
from lightning_nas.errors import ConfigError
from lightning_nas.pipeline.config import KEYS, merge, read_yaml
from lightning_nas.pipeline.run import Pipeline
from lightning_nas.pipeline.stages import resolve

STAGE = "fit"
"""Name of the stage of an entry that has only one."""


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        study: Name of the study.
        entry: Name of the entry.
        dataset: Name of the data set; empty where the study lists none.
        seed: The seed.
        config: Configuration of its stages, as that of a pipeline.
        base: Folder that paths of stage files are relative to.
        folder: Folder of the run.
        final: Whether it ends with a final training, as a pipeline does.
    """

    study: str
    entry: str
    dataset: str
    seed: int
    config: dict[str, Any]
    base: Path
    folder: Path
    final: bool

    @property
    def log(self) -> Path:
        """File beside the folder with everything that the stages have printed."""
        return self.folder.with_suffix(".log")

    def pipeline(self) -> Pipeline:
        """The chain of its stages."""
        command = f"lightning-nas compare, {self}"
        return Pipeline(self.config, self.folder, self.base, command, self.final)

    def __str__(self) -> str:
        where = f" on {self.dataset}" if self.dataset else ""
        return f"{self.entry}{where}, seed {self.seed}"


def runs(arguments: Arguments) -> list[Run]:
    """List the runs of a study, seed by seed, so that one which is stopped early has compared fairly.

    Args:
        arguments: Command line of the study.

    Raises:
        ConfigError: A file of an entry is missing or wrong.
    """
    sets = datasets(arguments.config)
    return [
        _run(arguments, name, dataset, study, seed)
        for seed in seeds(arguments.config)
        for dataset, study in sets.items()
        for name in study["entries"]
    ]


def _run(arguments: Arguments, name: str, dataset: str, study: Mapping[str, Any], seed: int) -> Run:
    """One run, whose tasks and data get the seed where they take one."""
    entry = dict(study["entries"][name])
    folder = arguments.output_dir / dataset / name / f"seed_{seed}"
    keys = ("num_threads", "matmul_precision", "imports", "data", "trainer")
    common = {key: study[key] for key in keys if study.get(key) is not None}
    own = {
        "seed_everything": seed,
        "workers": 1,
        "constraints": {},
        "dataset": dataset,
        "arguments": study.get("arguments") or {},
        "shared": study.get("shared") or {},
    }
    if "pipeline" in entry:
        path = find_config(entry.pop("pipeline"), arguments.base)
        found = read_yaml(path)
        stages = {key: _mapping(stage) for key, stage in (found.get("stages") or {}).items()}
        whole = merge(merge({"constraints": {}, **found, "stages": stages}, common), entry)
        _check_pipeline(name, whole)
        # the study has workers of its own
        whole |= {"seed_everything": seed, "workers": 1}
        return Run(arguments.name, name, dataset, seed, {**own, **whole}, path.parent, folder, True)
    if "stages" not in entry:
        entry = {"stages": {STAGE: _single(entry, study)}}
    unknown = set(entry) - set(KEYS)
    if unknown:
        raise ConfigError(f"entries.{name} has 'stages' and {sorted(unknown)}, which is no key of a chain of stages.")
    config = {**own, **merge(common, entry)}
    seeded = _seeded(config, folder, arguments.base)
    return Run(arguments.name, name, dataset, seed, seeded, arguments.base, folder, False)


def _check_pipeline(name: str, whole: Mapping[str, Any]) -> None:
    """Refuse a pipeline without data or stages, and changes of keys that it does not have."""
    unknown = set(whole) - set(KEYS)
    if unknown or not whole["stages"] or not isinstance(whole.get("data"), dict):
        raise ConfigError(
            f"entries.{name} is no pipeline: it needs 'data' and 'stages', and may have {', '.join(KEYS)}"
            f"{f'; it has {sorted(unknown)}' if unknown else ''}."
        )


def _mapping(stage: Any) -> Any:
    """The entry of a stage as a mapping, so that changes can lie on it."""
    return {"config": stage} if isinstance(stage, str) else stage


def _single(entry: dict[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    """The only stage of an entry: its files, what all entries share, its budget, and its own changes on top."""
    budget = entry.pop("budget", None) or study.get("budget") or {}
    limits: dict[str, Any] = {}
    if "seconds" in budget:
        limits = merge(limits, {"trainer": {"max_time": {"seconds": budget["seconds"]}}})
    if "steps" in budget:
        limits = merge(limits, {"trainer": {"max_steps": budget["steps"]}})
    if "queries" in budget:
        limits = merge(limits, {"model": {"init_args": {"budget": budget["queries"]}}})
    files = entry.pop("config", [])
    files = list(files) if isinstance(files, list) else [files]
    return {**entry, "config": [*files, study.get("shared") or {}, limits]}


def _seeded(config: dict[str, Any], folder: Path, base: Path) -> dict[str, Any]:
    """A configuration whose tasks and data have the seed of the run, unless they have another or take none."""
    stages = dict(config["stages"])
    for stage in resolve(config, folder, base, final=False):
        for part, kind in BASES.items():
            given = stage.config[part]
            if _takes_seed(given.get("class_path"), kind) and "seed" not in (given.get("init_args") or {}):
                seed = {part: {"init_args": {"seed": config["seed_everything"]}}}
                stages[stage.name] = merge(_mapping(stages[stage.name]), seed)
    return {**config, "stages": stages}


def _takes_seed(path: Any, base: type) -> bool:
    """Whether a class has an argument ``seed``. One that cannot be found yet is refused later, with a better reason."""
    found = named_class(path, base)
    return found is not None and "seed" in class_arguments(found)


def named_class(path: Any, base: type) -> type | None:
    """The class that a configuration names.

    Args:
        path: Its full path, or its name alone for a public class of this library.
        base: Base class of what can stand there.

    Returns:
        None if there is no such class.
    """
    named = {each.__name__: each for each in members(base)}
    found = named.get(path) or (locate(path) if isinstance(path, str) and "." in path else None)
    return found if inspect.isclass(found) and issubclass(found, base) else None
