"""The stages of a pipeline, each with the full configuration of its ``fit``."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_nas.cli.config_files import find_config
from lightning_nas.errors import ConfigError
from lightning_nas.metrics.network_costs import COSTS
from lightning_nas.pipeline import baselines as standard
from lightning_nas.pipeline.baselines import Baseline
from lightning_nas.pipeline.config import EXPORT, merge, read_yaml
from lightning_nas.report.tested import IMAGES

ROLES = ("test", "random_architectures", "baselines", "seeds")
"""Keys of a stage that are for the pipeline; all others are for ``fit``."""

PICTURES = 24
"""Number of mistakes of the found network whose images are kept."""

SPLIT = {"train_limit": None, "validation_fraction": 0.0, "split_seed": 0}
"""Arguments that decide which images a data module keeps out of training, with their defaults."""


@dataclass(frozen=True)
class Stage:
    """One fit of a pipeline.

    Attributes:
        name: Name of the stage, of its YAML file in the run folder, and of its subfolder for logs and checkpoints.
        config: Full configuration of the fit.
        test: Whether the network is tested after the fit.
        drawn_from: Architecture file whose space the architecture is drawn from at random; None if it is not drawn.
        draw: Number of the draw, from 0.
        repeat: Number of the training of the same network, each with a seed of its own, from 0.
        baseline: The standard network that is trained; None for architectures.
    """

    name: str
    config: dict[str, Any]
    test: bool = False
    drawn_from: Path | None = None
    draw: int = 0
    repeat: int = 0
    baseline: Baseline | None = None

    @property
    def compared(self) -> bool:
        """Whether the stage is there for the comparison alone: it trains what the tested stage trains, or a rival."""
        return self.drawn_from is not None or self.baseline is not None or self.repeat > 0

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the task."""
        found: dict[str, Any] = self.config["model"]["init_args"]
        return found


def resolve(config: Mapping[str, Any], run_dir: Path, base: Path, final: bool = True) -> list[Stage]:
    """Resolve the configuration of a pipeline.

    A stage is its file, with the keys of its entry on top. Interpolations such as ``${data}``, ``${run_dir}``,
    ``${seed_everything}``, ``${constraints}`` and ``${stages.search.data}`` refer to the configuration of the whole
    pipeline. ``${final_costs}`` is the component that measures the network of the final training, for constraints.

    Args:
        config: Configuration of the pipeline, as read from the command line.
        run_dir: Run folder.
        base: Folder that paths of stage files are relative to. What is not there is looked for in the working
            directory and among the shipped configurations.
        final: Whether exactly one stage must be tested, as a final training is.

    Returns:
        The stages in their order. Those that train for the comparison alone come last: repetitions of the final
        training with other seeds, and trainings of random architectures and of standard networks.

    Raises:
        ConfigError: A file is missing, an interpolation refers to nothing, or the stages cannot work together.
    """
    entries = {name: entry for name, entry in config["stages"].items() if entry is not None and name != EXPORT}
    whole = {
        **config,
        "run_dir": str(run_dir),
        "stages": {name: _on_files(name, entry, config, base) for name, entry in entries.items()},
    }
    whole["final_costs"] = _final_costs(whole["stages"])
    _check_constraints(config.get("constraints") or {}, whole["stages"])
    stages: list[Stage] = []
    compared: list[Stage] = []
    interpolated = _interpolated(whole)
    for name, content in interpolated["stages"].items():
        content.setdefault("baselines", [*standard.DEFAULT] if final and content.get("test") is True else [])
        test, count, seeds, given = _roles(name, content)
        baselines = standard.read_entries(name, given, run_dir)
        _check_fit(name, content)
        stages.append(Stage(name, _with_logging(content, run_dir, name, PICTURES if test else None), test))
        contents = [content, *(_with_seed(whole, name, repeat) for repeat in range(1, seeds))]
        for repeat in range(1, seeds):
            again = f"{name}_seed_{repeat}"
            compared.append(Stage(again, _with_logging(contents[repeat], run_dir, again, 0), True, repeat=repeat))
        compared += [_random(other, run_dir, i, repeat) for i in range(count) for repeat, other in enumerate(contents)]
        compared += [_standard(other, run_dir, each, i) for each in baselines for i, other in enumerate(contents)]
    tested = [stage.name for stage in stages if stage.test]
    if final and len(tested) != 1:
        raise ConfigError(
            f"The stages with 'test: true' are {tested}; there must be exactly one, the final training, whose network "
            "is tested and exported."
        )
    if config.get("data"):
        _check_held_out(stages, config["data"]["class_path"], interpolated["final_costs"])
    return [*stages, *compared]


def _on_files(name: str, entry: Any, config: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """A stage's entry on top of its files, which lie on what all stages share."""
    entry = {"config": entry} if isinstance(entry, str) else dict(entry)
    given = entry.pop("config", None)
    layers = given if isinstance(given, list) and given else [given]
    if not re.fullmatch(r"\w[\w-]*", str(name)) or not all(isinstance(layer, str | dict) for layer in layers):
        raise ConfigError(
            f"stages.{name} has the config {given!r}; it must be the path of a stage file, or a list of files and "
            "changes. The name of a stage is made of letters, digits, '_' and '-'."
        )
    merged: Any = {"trainer": config.get("trainer") or {}}
    for layer in layers:
        if isinstance(layer, str):
            layer = read_yaml(find_config(layer, base))
        merged = merge(merged, layer)
    merged["seed_everything"] = config.get("seed_everything", 0)
    if config.get("imports"):
        merged["imports"] = config["imports"]
    merged |= {key: config[key] for key in ("num_threads", "matmul_precision") if config.get(key) is not None}
    return dict(merge(merged, entry))


def _interpolated(whole: dict[str, Any]) -> dict[str, Any]:
    """Everything with its interpolations and ``extends`` replaced by what they stand for."""
    try:
        found = OmegaConf.to_container(OmegaConf.create(whole), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        place = getattr(error, "full_key", None) or "An interpolation"
        raise ConfigError(
            f"{place} cannot be resolved: {str(error).splitlines()[0]}. Interpolations refer to keys of the pipeline's "
            f"configuration; its stages are {', '.join(whole['stages'])}. Where a stage was left out, leave out those "
            "that need its results as well, or give them other values."
        ) from None
    extended: dict[str, Any] = _extended(found)
    return extended


def _extended(node: Any) -> Any:
    """A configuration in which every mapping with ``extends`` lies on top of the mapping that it names."""
    if isinstance(node, list):
        return [_extended(each) for each in node]
    if not isinstance(node, dict):
        return node
    own = {key: _extended(value) for key, value in node.items()}
    if "extends" not in own:
        return own
    base = own.pop("extends")
    if not isinstance(base, dict):
        raise ConfigError(f"extends is {base!r}; it must be a mapping, such as ${{data}}.")
    return merge(base, own)


def _final_costs(entries: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The component that measures the network of the tested stage."""
    for name, entry in entries.items():
        if entry.get("test") is True and isinstance(entry.get("model"), dict):
            given = entry["model"].get("init_args") or {}
            size = {key: f"${{stages.{name}.model.init_args.{key}}}" for key in ("channels", "cells") if key in given}
            return {"class_path": "NetworkCosts", "init_args": {**size, "data": f"${{stages.{name}.data}}"}}
    return {"class_path": "NetworkCosts"}


def _check_constraints(constraints: Mapping[str, float], entries: Mapping[str, dict[str, Any]]) -> None:
    """Refuse constraints on unknown costs, and those that no stage keeps."""
    unknown = [name for name in constraints if name not in COSTS]
    if unknown:
        raise ConfigError(f"constraints names {', '.join(unknown)}; the costs of a network are {', '.join(COSTS)}.")
    if constraints and "${constraints}" not in str(entries):
        raise ConfigError(
            f"There are constraints, {dict(constraints)}, but no stage keeps them. Give the stage that chooses the "
            "architecture constraints: ${constraints}, as the shipped pipelines do."
        )


def _with_seed(whole: Mapping[str, Any], name: str, repeat: int) -> dict[str, Any]:
    """A stage's configuration as it would be with another seed of the whole pipeline."""
    seed = whole["seed_everything"] + repeat
    content: dict[str, Any] = _interpolated({**whole, "seed_everything": seed})["stages"][name]
    content["seed_everything"] = seed
    _roles(name, content)
    return content


def _roles(name: str, content: dict[str, Any]) -> tuple[bool, int, int, Any]:
    """Take out what is for the pipeline: whether a stage is tested, random architectures, seeds, and baselines."""
    test, count = content.pop("test", False), content.pop("random_architectures", 0)
    seeds = content.pop("seeds", 1)
    baselines = content.pop("baselines", None)
    if not isinstance(test, bool):
        raise ConfigError(f"stages.{name}.test is {test!r}; it must be true or false.")
    if type(count) is not int or count < 0 or (count and not test):
        raise ConfigError(
            f"stages.{name}.random_architectures is {count!r}; it must be an integer of at least 0, and 0 where the "
            "stage does not have 'test: true'."
        )
    if type(seeds) is not int or seeds < 1 or (seeds > 1 and not test):
        raise ConfigError(
            f"stages.{name}.seeds is {seeds!r}; it must be an integer of at least 1, and 1 where the stage does not "
            "have 'test: true'."
        )
    if baselines and not test:
        raise ConfigError(
            f"stages.{name}.baselines is {baselines!r:.200}; only the stage with 'test: true' may have baselines."
        )
    return test, count, seeds, baselines


def _check_fit(name: str, content: dict[str, Any]) -> None:
    """Refuse what cannot be fitted, as far as it shows without the classes."""
    if not isinstance(content.get("data"), dict) or not isinstance(content.get("model"), dict):
        raise ConfigError(f"The file of stages.{name} must have 'model' and 'data'.")
    if not isinstance(content["model"].setdefault("init_args", {}), dict):
        raise ConfigError(f"stages.{name}.model.init_args must be a mapping.")
    trainer = content["trainer"]
    if not isinstance(trainer, dict) or trainer.get("max_epochs") == 0 or trainer.get("fast_dev_run"):
        raise ConfigError(f"stages.{name}.trainer is {trainer}; a stage must train for at least one epoch.")


def _random(content: Mapping[str, Any], run_dir: Path, draw: int, repeat: int) -> Stage:
    """The same training of an architecture that is drawn at random."""
    drawn = f"random_{draw}"
    name = f"{drawn}_seed_{repeat}" if repeat else drawn
    config = _with_logging(content, run_dir, name, 0)
    arguments = config["model"]["init_args"]
    found = arguments.get("architecture")
    if not isinstance(found, str):
        raise ConfigError(
            f"model.init_args.architecture of the stage with random_architectures is {found!r}; it must be the path of "
            "the architecture.json that the search writes, since random architectures are drawn from its space."
        )
    arguments["architecture"] = str(run_dir / drawn / "architecture.json")
    return Stage(name, config, True, Path(found), draw, repeat)


def _standard(content: Mapping[str, Any], run_dir: Path, baseline: Baseline, repeat: int) -> Stage:
    """The same training of a standard network."""
    name = f"{baseline.name}_seed_{repeat}" if repeat else baseline.name
    config = _with_logging(content, run_dir, name, 0)
    standard.adapt(config["model"]["init_args"], baseline)
    return Stage(name, config, True, repeat=repeat, baseline=baseline)


def _with_logging(
    content: Mapping[str, Any], run_dir: Path, folder: str, pictures: int | None = None
) -> dict[str, Any]:
    """A copy that logs curves as CSV for the report, beside other loggers, and keeps a checkpoint of every epoch.

    With a number of pictures, it also keeps the results of every test image.
    """
    first = {key: content[key] for key in ("model", "data", "trainer")}
    config = deepcopy(first | dict(content))
    trainer = config["trainer"]
    csv = {"class_path": "CSVLogger", "init_args": {"save_dir": str(run_dir), "name": folder}}
    others = trainer.get("logger")
    others = [] if others in (None, True, False) else others if isinstance(others, list) else [others]
    trainer["logger"] = [csv, *others]
    checkpoint = {
        "class_path": "ModelCheckpoint",
        "init_args": {
            "dirpath": str(run_dir / folder / "checkpoints"),
            "filename": "last",
            "enable_version_counter": False,
            "save_on_train_epoch_end": True,
        },
    }
    given = trainer.get("callbacks") or []
    path = str(run_dir / folder / IMAGES)
    results = {"class_path": "lightning_nas.callbacks.ImageResults", "init_args": {"path": path, "pictures": pictures}}
    own = [checkpoint] if pictures is None else [checkpoint, results]
    trainer["callbacks"] = [*(given if isinstance(given, list) else [given]), *own]
    trainer["default_root_dir"] = str(run_dir)
    return config


def _modules(node: Any, class_path: str, place: str, apart: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and arguments of every object of a class in a configuration, without those inside of one mapping."""
    if isinstance(node, dict) and node != apart:
        if node.get("class_path") == class_path:
            yield place, node.get("init_args") or {}
        for key, value in node.items():
            yield from _modules(value, class_path, f"{place}.{key}", apart)


def _check_held_out(stages: list[Stage], class_path: str, final_costs: Any) -> None:
    """Refuse stages that keep different images out of training: one could be scored on what another was made of.

    The final training, which is not compared, may use all images, and the costs of its network depend on their shape
    alone.

    Raises:
        ConfigError: Two of the pipeline's data modules hold out different images.
    """
    splits = {}
    for stage in stages:
        if not stage.test:
            for place, arguments in _modules(stage.config, class_path, f"stages.{stage.name}", final_costs):
                splits[place] = {key: arguments.get(key, default) for key, default in SPLIT.items()}
    if not any(split["validation_fraction"] for split in splits.values()):
        return
    (first, expected), *others = splits.items()
    for place, split in others:
        if split != expected:
            raise ConfigError(
                f"{place} has {split}, but {first} has {expected}: a stage could be scored on images that the proxy "
                "was distilled from. Set these once, by --data.train_limit, --data.validation_fraction and "
                "--data.split_seed."
            )
