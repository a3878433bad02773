"""The configurations of a pipeline's stages: their own files, with what the pipeline knows filled in."""

import importlib
import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_nas.errors import ConfigError
from lightning_nas.pipeline.config import merge, read_yaml

_ONE_EPOCH = {"max_epochs": 1, "precision": "32-true", "log_every_n_steps": 1}
"""Settings of a trainer that the stages ``fidelity`` and ``refine`` need, whatever the others share."""

_ONE_PROCESS = {"devices": 1, "num_nodes": 1, "strategy": "auto"}

_PROXY_DATA = "lightning_nas.distill.data_module.DistilledDataModule"

_HELD_OUT = {
    "fidelity": ("model", "init_args", "proxy", "init_args", "data", "init_args", "held_out"),
    "search": ("data", "init_args", "held_out"),
}
"""Where stages say which real images they score on."""


@dataclass(frozen=True)
class Stages:
    """What every stage of a pipeline is run with.

    Args:
        config: The pipeline's configuration.
        run_dir: The run folder.
        base: What paths of stage files are relative to, where they don't exist as given.
    """

    config: dict[str, Any]
    run_dir: Path
    base: Path

    @property
    def trainer(self) -> dict[str, Any]:
        """What all stages share of the trainer's configuration."""
        return dict(self.config.get("trainer") or {})

    @property
    def seed(self) -> int:
        """The seed of all stages."""
        return int(self.config.get("seed_everything", 0))

    def _stage_file(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        given = self.config["stages"][name]
        given = {"config": given} if isinstance(given, str) else dict(given)
        if not isinstance(given.get("config"), str):
            raise ConfigError(f"stages.{name} must name a YAML file under 'config'; received {given}.")
        path = Path(given.pop("config"))
        return read_yaml(path if path.is_file() else self.base / path), given

    def _data(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """The stage's own data with the pipeline's images in the place of its own.

        The stage keeps how images are loaded (batch size, augmentations, workers); the pipeline says which they are.
        """
        from lightning_nas.data.base import ImageDataModule

        shared = dict(self.config["data"])
        arguments = dict(shared.pop("init_args", None) or {})
        class_path = shared.pop("class_path", None)
        if not isinstance(class_path, str):
            raise ConfigError("data needs a class_path, such as lightning_nas.data.images.DigitsDataModule.")
        arguments |= shared  # --data.root is short for --data.init_args.root
        own = dict(stage.get("init_args") or {})
        if "data" in own:  # a module that wraps one of images
            return {**stage, "init_args": {**own, "data": self._data(own["data"])}}
        loading = set(inspect.signature(ImageDataModule.__init__).parameters)
        if stage.get("class_path") != class_path:
            _check_options(stage)
        kept = {key: value for key, value in own.items() if key in loading or stage.get("class_path") == class_path}
        return {"class_path": class_path, "init_args": {"seed": self.seed, **kept, **arguments}}

    def _distilled(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """The proxy in the place of the search's own images, loaded as those are."""
        own = dict(stage.get("init_args") or {})
        if "proxy_path" in own:
            return self._on_proxy(stage)
        for part in (stage, own.get("data") or {}):
            _check_options(part)
        images = dict((own.get("data") or {}).get("init_args") or {})
        loading = {
            "augmentations": images,
            "seed": images,
            "batch_size": own,
            "search_fraction": own,
            "split_seed": own,
        }
        kept = {key: part[key] for key, part in loading.items() if key in part}
        return self._on_proxy({"class_path": _PROXY_DATA, "init_args": {"seed": self.seed, **kept}})

    def _on_proxy(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Data of a proxy, with the pipeline's, and the part of its images that is held out."""
        arguments = {
            "seed": self.seed,
            **(data.get("init_args") or {}),
            "proxy_path": str(self.run_dir / "proxy.safetensors"),
        }
        if arguments.get("held_out"):
            arguments["held_out"] = self._data(arguments["held_out"])
        return {**data, "init_args": arguments}

    def _evaluator(self, evaluator: Mapping[str, Any]) -> dict[str, Any]:
        """An evaluator on the pipeline's images, or on its proxy; one that reads neither stays as it is."""
        own = dict(evaluator.get("init_args") or {})
        if not isinstance(own.get("data"), dict):
            return dict(evaluator)
        fill = self._on_proxy if "proxy_path" in (own["data"].get("init_args") or {}) else self._data
        return {**evaluator, "init_args": {"seed": self.seed, **own, "data": fill(own["data"])}}

    def _fill_fidelity(self, config: dict[str, Any]) -> None:
        """Evaluators on what the pipeline works with, architectures of the space that it searches."""
        arguments = config["model"]["init_args"]
        arguments["write_to"] = str(self.run_dir / "proxy.safetensors")
        for part in ("proxy", "reference"):
            if isinstance(arguments.get(part), dict):
                arguments[part] = deepcopy(self._evaluator(arguments[part]))  # shared parts would be YAML's aliases
        held_out = _within(arguments, *_HELD_OUT["fidelity"][2:])
        images = _within(arguments, "reference", "init_args", "data", "init_args", "data", "init_args")
        if held_out and images is not None:  # the reference sees other images than those that the proxy is scored on
            images |= _part(held_out)
        space = self.config_of("search")["model"]["init_args"].get("space")
        searched = {} if space is None else {"space": space}
        config["data"]["init_args"] = {"seed": self.seed, **(config["data"].get("init_args") or {}), **searched}

    def _fill_refine(self, arguments: dict[str, Any]) -> None:
        """Architectures of the space that is searched, beginning with what was found, on the same images."""
        searched = self.config_of("search")
        arguments["space"] = searched["model"]["init_args"]["space"]
        found = {"starts": [str(self.search_dir / "architecture.json")]}
        strategy, evaluator = (_described(arguments, part) for part in ("strategy", "evaluator"))
        taken = _parameters(strategy["class_path"])
        if taken is not None and "starts" not in taken:
            raise ConfigError(
                f"stages.refine has the strategy {strategy['class_path']}, which begins with no architecture of the "
                "search; it needs one with `starts`, such as lightning_nas.strategies.refine.Refine."
            )
        strategy["init_args"] = self._on_search({**(strategy.get("init_args") or {}), **found}, searched["data"])
        arguments |= {"strategy": strategy, "evaluator": self._on_search(evaluator, searched["data"])}

    def _on_search(self, part: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration, with the search's data and alphas wherever it has its own."""
        filled = dict(part)
        for key, value in part.items():
            if key == "alphas":
                filled[key] = [str(self.search_dir / "alphas.safetensors")]
            elif key == "data":
                filled[key] = deepcopy(dict(data))
                filled.setdefault("seed", self.seed)
            elif isinstance(value, dict):
                filled[key] = self._on_search(value, data)
        return filled

    def _hold_out(self, data: dict[str, Any]) -> None:
        """Keep the images that later stages score on from the distillation.

        Raises:
            ConfigError: Two stages hold out different images.
        """
        while "data" in data["init_args"]:  # a module that wraps one of images
            data = data["init_args"]["data"]
        kept = None
        for name, path in _HELD_OUT.items():
            held_out = _within(self.config_of(name) if name in self.fits else None, *path)
            if not held_out:
                continue
            limits = data["init_args"].get("train_limit"), held_out["init_args"].get("train_limit")
            part = _part(held_out)
            if limits[0] != limits[1] or part != (kept or part):
                raise ConfigError(
                    f"The images that stage {name} holds out (train_limit {limits[1]}, {part}) are not those that are "
                    f"kept from the distillation (train_limit {limits[0]}, {kept or part}); it could score on "
                    "distilled ones. Set train_limit by --data.train_limit, and fraction and seed alike for all stages."
                )
            kept = part
        data["init_args"] |= kept or {"validation_fraction": 0.0}

    @property
    def fits(self) -> list[str]:
        """The stages that are fits, in their order; without a distillation there is no proxy to check."""
        stages = self.config["stages"]
        names = [name for name in ("distill", "fidelity", "search", "refine", "train") if stages.get(name)]
        return [name for name in names if name != "fidelity" or stages.get("distill")]

    @property
    def search_dir(self) -> Path:
        """Where the search writes: a subfolder where a later stage writes what was found."""
        return self.run_dir / "search" if self.config["stages"].get("refine") else self.run_dir

    def config_of(self, name: str, folder: str | None = None) -> dict[str, Any]:
        """The full configuration of one stage's ``fit``.

        Args:
            name: ``distill``, ``fidelity``, ``search``, ``refine`` or ``train``.
            folder: Subfolder of the run for its logs and checkpoints, by default the name.
        """
        own, over = self._stage_file(name)
        folder = folder or name
        config: dict[str, Any] = merge(merge(own, {"trainer": self.trainer}), over)
        config["seed_everything"] = self.seed
        config.setdefault("trainer", {})
        config["num_threads"] = self.config.get("num_threads", config.get("num_threads"))
        if not isinstance(config.get("data"), dict) or not isinstance(config.get("model"), dict):
            raise ConfigError(f"The file of stages.{name} must have 'model' and 'data'.")
        arguments: dict[str, Any] = config["model"].setdefault("init_args", {})
        if name == "fidelity":
            self._fill_fidelity(config)
        elif name == "refine":
            self._fill_refine(arguments)
        elif name == "search" and self.config["stages"].get("distill"):
            config["data"] = self._distilled(config["data"])
        else:
            config["data"] = self._data(config["data"])
        if name == "train":
            arguments["architecture"] = str(self.run_dir / "architecture.json")
        else:
            arguments["output_dir"] = str(self.search_dir if name == "search" else self.run_dir)
            if name != "fidelity":
                arguments.setdefault("seed", self.seed)
        if name == "distill":
            self._hold_out(config["data"])
        if name == "distill" and not arguments.get("matcher"):  # a control trains nothing
            config["trainer"] |= _ONE_PROCESS
        if name in ("fidelity", "refine"):
            config["trainer"] |= _ONE_PROCESS | _ONE_EPOCH
        for key in ("max_epochs", "fast_dev_run"):
            if config["trainer"].get(key) in ((0,) if key == "max_epochs" else (True,)):
                raise ConfigError(f"trainer.{key} of stage {name} is {config['trainer'][key]}: a stage must train.")
        self._add_logging(config["trainer"], folder)
        return config

    def _add_logging(self, trainer: dict[str, Any], folder: str) -> None:
        """Curves as CSV for the report, beside other loggers; a checkpoint after every epoch, to go on from."""
        csv = {"class_path": "CSVLogger", "init_args": {"save_dir": str(self.run_dir), "name": folder}}
        others = trainer.get("logger")
        others = [] if others in (None, True, False) else others if isinstance(others, list) else [others]
        trainer["logger"] = [csv, *others]
        checkpoint = {
            "class_path": "ModelCheckpoint",
            "init_args": {
                "dirpath": str(self.run_dir / folder / "checkpoints"),
                "filename": "last",
                "enable_version_counter": False,
                "save_on_train_epoch_end": True,
            },
        }
        trainer["callbacks"] = [*(trainer.get("callbacks") or []), checkpoint]
        trainer["default_root_dir"] = str(self.run_dir)


def _parameters(class_path: Any) -> set[str] | None:
    """Names of what a class's constructor takes, with those that it passes on; None where there is no such class."""
    module, _, name = str(class_path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
        kinds = inspect.getmro(found)
        return {each for kind in kinds for each in inspect.signature(vars(kind).get("__init__", kind)).parameters}
    except (ImportError, AttributeError, ValueError, TypeError):
        return None


def _check_options(part: Mapping[str, Any]) -> None:
    """Refuse options of data whose place the pipeline's take: the parser, which knows, never sees them.

    Raises:
        ConfigError: The class does not take one.
    """
    taken, given = _parameters(part.get("class_path")), part.get("init_args") or {}
    unknown = [] if taken is None else sorted(given.keys() - taken)
    if unknown:
        raise ConfigError(
            f"{part['class_path']} takes no {', '.join(unknown)}. Correct the name, or name a class_path that takes it."
        )


def _described(arguments: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A class and its arguments, also where the class alone is named.

    Raises:
        ConfigError: It is something else.
    """
    given = arguments.get(name)
    part = {"class_path": given} if isinstance(given, str) else given
    if not isinstance(part, Mapping) or not isinstance(part.get("class_path"), str):
        raise ConfigError(
            f"stages.refine has the {name} {given!r:.200}; expected are class_path and init_args, as in "
            "configs/evolve/refine_search.yaml."
        )
    return dict(part)


def _within(config: Any, *keys: str) -> Any:
    """What is found at a path of keys; None where there is nothing."""
    for key in keys:
        config = (config or {}).get(key)
    return config


def _part(held_out: Mapping[str, Any]) -> dict[str, Any]:
    """Which images a module of images keeps from training."""
    defaults = {"validation_fraction": 0.0, "split_seed": 0}
    return {key: held_out["init_args"].get(key, value) for key, value in defaults.items()}
