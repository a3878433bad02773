"""One YAML from images to a found network: distill, search, train, test, export."""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lightning_nas.artifacts import read_json, write_bytes, write_json
from lightning_nas.errors import ConfigError

STAGES = ("distill", "search", "train", "export")
_KEYS = {"seed_everything", "num_threads", "data", "trainer", "random_architectures", "stages"}


def merge(base: Any, over: Any) -> Any:
    """``over`` on top of ``base``, mapping by mapping; another class starts from its own arguments alone."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    if "class_path" in over and over["class_path"] != base.get("class_path"):
        return dict(over)
    return {**base, **{key: merge(base[key], value) if key in base else value for key, value in over.items()}}


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a stage given as a path becomes a mapping that names it."""
    *path, last = key.split(".")
    for part in path:
        inner = config.get(part)
        if not isinstance(inner, str | dict | None):
            raise ConfigError(f"--{key} goes below {part}, which is {inner!r} and not a mapping.")
        config[part] = {"config": inner} if isinstance(inner, str) else dict(inner or {})
        config = config[part]
    config[last] = value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: The file is missing, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {error}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys; it holds {type(content).__name__}.")
    return content


def parse(args: Sequence[str]) -> tuple[dict[str, Any], Path | None, Path]:
    """Read the command line.

    Returns:
        The pipeline's configuration, the run folder if one was named, and the folder of the YAML file, which paths of
        stages are relative to.

    Raises:
        ConfigError: A key is unknown or a value missing.
    """
    parser = argparse.ArgumentParser(
        prog="lightning-nas pipeline",
        description=__doc__,
        epilog="Any key of the YAML can be given as --key.of.yaml VALUE: --stages.distill other.yaml takes another "
        "stage file, --stages.search.trainer.max_epochs 5 changes one of its values, --data.root DIR one of the data.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, required=True, help="the pipeline's YAML file")
    parser.add_argument("--run_dir", type=Path, help="where everything goes; an unfinished run there goes on")
    known, rest = parser.parse_known_args(list(args))
    config = read_yaml(known.config)
    pairs = [part for item in rest for part in (item.split("=", 1) if item.startswith("--") else [item])]
    if len(pairs) % 2 or not all(key.startswith("--") for key in pairs[::2]):
        raise ConfigError(f"Arguments {rest} are no pairs of --key VALUE.")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        try:
            set_key(config, key.removeprefix("--"), yaml.safe_load(value))
        except yaml.YAMLError:
            raise ConfigError(f"{key} {value} is no valid YAML value.") from None
    _check(config, known.config)
    return config, known.run_dir, known.config.parent


def _check(config: dict[str, Any], path: Path) -> None:
    """Refuse a pipeline's configuration that cannot work, as far as it shows without the stages."""
    stages = config.get("stages")
    if not isinstance(stages, dict) or not isinstance(config.get("data"), dict):
        raise ConfigError(f"{path} needs the mappings 'stages' and 'data' (class_path and init_args of the images).")
    unknown = [k for k in config if k not in _KEYS] + [f"stages.{k}" for k in stages if k not in STAGES]
    if unknown:
        raise ConfigError(
            f"Unknown keys {unknown} in the pipeline's configuration; there are {sorted(_KEYS)}, with stages {STAGES}."
        )
    missing = [f"stages.{k}" for k in ("search", "train") if not stages.get(k)]
    if missing:
        raise ConfigError(f"{path} lacks {missing}.")
    wrong = [k for k in STAGES if not isinstance(stages.get(k), str | dict | None)]
    if wrong or stages.get("export"):
        raise ConfigError(f"stages.{(wrong or ['export'])[0]} must be a path or a mapping; that of export is empty.")
    for key in ("seed_everything", "random_architectures"):
        value = config.get(key, 0)
        if type(value) is not int or value < 0:
            raise ConfigError(f"{key} is {value!r}; it must be an integer of at least 0.")
    if not isinstance(config.get("trainer") or {}, dict):
        raise ConfigError(f"trainer is {config['trainer']!r}; it must be a mapping.")


@dataclass
class Pipeline:
    """A chain of ordinary fits in one run folder.

    Every stage's full configuration is written to ``RUN/<stage>.yaml`` and run as ``lightning-nas fit --config`` that
    file: in this process on one device, as a process of its own on several, so that a launcher replays the stage alone.

    Args:
        config: The pipeline's configuration.
        run_dir: The run folder.
        base: What paths of stage files are relative to, where they don't exist as given.
        command: The command line, for the summary.
    """

    config: dict[str, Any]
    run_dir: Path
    base: Path
    command: str
    seconds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def trainer(self) -> dict[str, Any]:
        """What all stages share of the trainer's configuration."""
        return dict(self.config.get("trainer") or {})

    @property
    def seed(self) -> int:
        """The seed of all stages."""
        return int(self.config.get("seed_everything", 0))

    # -- configurations -------------------------------------------------------------------------------------------

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
        import inspect

        from lightning_nas.data.images import ImageDataModule

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
        kept = {key: value for key, value in own.items() if key in loading or stage.get("class_path") == class_path}
        return {"class_path": class_path, "init_args": {"seed": self.seed, **kept, **arguments}}

    def _distilled(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """The proxy in the place of the search's own images, loaded as those are."""
        own = dict(stage.get("init_args") or {})
        images = dict((own.get("data") or {}).get("init_args") or {})
        loading = {
            "augmentations": images,
            "seed": images,
            "batch_size": own,
            "search_fraction": own,
            "split_seed": own,
        }
        kept = {key: part[key] for key, part in loading.items() if key in part}
        return {
            "class_path": "lightning_nas.data.distilled.DistilledDataModule",
            "init_args": {"seed": self.seed, **kept, "proxy": str(self.run_dir / "proxy.safetensors")},
        }

    def stage_config(self, name: str, folder: str | None = None) -> dict[str, Any]:
        """The full configuration of one stage's ``fit``.

        Args:
            name: ``distill``, ``search`` or ``train``.
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
        if name == "search" and self.config["stages"].get("distill"):
            config["data"] = self._distilled(config["data"])
        else:
            config["data"] = self._data(config["data"])
        if name == "train":
            arguments["architecture"] = str(self.run_dir / "architecture.json")
        else:
            arguments["output_dir"] = str(self.run_dir)
            arguments.setdefault("seed", self.seed)
        if name == "distill" and not arguments.get("matcher"):  # a control has nothing to train
            config["trainer"] |= {"devices": 1, "num_nodes": 1, "strategy": "auto"}
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

    # -- running --------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Run all stages that are not done yet, write summary and report, and return the summary.

        Raises:
            ConfigError: The run folder holds another pipeline's run, or a stage's configuration is wrong: said before
                the first stage starts.
        """
        from lightning_nas.cli import check_config

        fits = [name for name in ("distill", "search", "train") if self.config["stages"].get(name)]
        configs = {name: self.stage_config(name) for name in fits}
        for i in range(self.random_architectures):
            configs[f"random_{i}"] = random = self.stage_config("train", f"random_{i}")
            random["model"]["init_args"]["architecture"] = str(self.run_dir / f"random_{i}" / "architecture.json")
        texts = {name: yaml.safe_dump(config, sort_keys=False) for name, config in configs.items()}
        for name, text in texts.items():
            path = self.run_dir / f"{name}.yaml"
            if path.is_file() and path.read_text() != text:
                raise ConfigError(
                    f"{path} is of a run with another configuration. Use another --run_dir, or delete "
                    f"{self.run_dir} to start anew."
                )
        with tempfile.TemporaryDirectory() as folder:  # a wrong configuration must not stay in the run folder
            for name in fits:
                check_config(write_bytes(Path(folder) / f"{name}.yaml", texts[name].encode()))
        for name, text in texts.items():
            write_bytes(self.run_dir / f"{name}.yaml", text.encode())
        for name in fits:
            self._stage(name, test=name == "train")
        self._sample_random()
        for i in range(self.random_architectures):
            self._stage(f"random_{i}", test=True)
        exported = self._export()
        return self._summary(exported)

    @property
    def random_architectures(self) -> int:
        """How many random architectures are trained like the found one."""
        return int(self.config.get("random_architectures", 3))

    def _stage(self, name: str, *, test: bool) -> None:
        done = self.run_dir / name / "done.json"
        if done.is_file():
            print(f"{name}: done before, in {self.run_dir}")
        else:
            print(f"\n== {name} ==", flush=True)
            start = time.perf_counter()
            config = ["--config", str(self.run_dir / f"{name}.yaml")]
            checkpoint = self.run_dir / name / "checkpoints" / "last.ckpt"
            resume = ["--ckpt_path", str(checkpoint)] if checkpoint.is_file() else []
            trainer = read_yaml(self.run_dir / f"{name}.yaml")["trainer"]
            self._command(["fit", *config, *resume], trainer)
            if not checkpoint.is_file():
                raise ConfigError(f"{name} left no checkpoint at {checkpoint}. It must train for at least one epoch.")
            if test:
                self._command(["test", *config, "--ckpt_path", str(checkpoint)], trainer)
            seconds = time.perf_counter() - start
            write_json(done, {"seconds": round(seconds, 2), "resumed": bool(resume)})
        content = read_json(done, repair="Delete it to run the stage again.")
        self.seconds.append({"name": name, "seconds": content["seconds"], "resumed": content["resumed"]})

    def _command(self, args: list[str], trainer: Mapping[str, Any]) -> None:
        # by default Lightning takes all devices that there are
        single = str(trainer.get("devices", "auto")) == "1" and int(trainer.get("num_nodes", 1)) == 1
        if single:
            from lightning_nas.cli import run

            run(args)
        elif subprocess.run([sys.executable, "-m", "lightning_nas", *args], check=False).returncode:
            raise ConfigError(f"'lightning-nas {' '.join(args)}' failed; its own message is above.")

    def _sample_random(self) -> None:
        import torch

        from lightning_nas.architecture import Architecture

        space = Architecture.load(self.run_dir / "architecture.json").space.build()
        generator = torch.Generator().manual_seed(self.seed)
        for i in range(self.random_architectures):
            path = self.run_dir / f"random_{i}" / "architecture.json"
            drawn = space.sample(generator)
            if not path.is_file():
                drawn.save(path, drawn="uniformly from the whole space", seed=self.seed, draw=i)

    def _export(self) -> dict[str, Any]:
        from lightning_nas.commands import export_checkpoint

        print("\n== export ==", flush=True)
        start = time.perf_counter()
        exported = export_checkpoint(self.run_dir / "train" / "checkpoints" / "last.ckpt", self.run_dir)
        self.seconds.append({"name": "export", "seconds": round(time.perf_counter() - start, 2), "resumed": False})
        return exported

    # -- results --------------------------------------------------------------------------------------------------

    def _tested(self, name: str) -> float:
        """The test accuracy that a stage logged last, as a fraction."""
        import csv

        found = None
        for path in sorted((self.run_dir / name).glob("version_*/metrics.csv"), key=lambda p: p.stat().st_mtime):
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    found = row.get("test/accuracy") or found
        if found is None:
            raise ConfigError(
                f"No test accuracy was logged under {self.run_dir / name}. Delete that folder to run the stage again."
            )
        return float(found)

    def _summary(self, exported: dict[str, Any]) -> dict[str, Any]:
        import statistics

        import torch

        from lightning_nas.commands import size, trained_network
        from lightning_nas.report.page import write_report

        architecture = read_json(self.run_dir / "architecture.json", repair="Run the search again.")
        distilled = self.run_dir / "proxy.json"
        proxy = read_json(distilled, repair="Run the distillation again.") if distilled.is_file() else {}
        randoms = [self._tested(f"random_{i}") for i in range(self.random_architectures)]
        checkpoints = [self.run_dir / f"random_{i}" / "checkpoints" / "last.ckpt" for i in range(len(randoms))]
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        summary = {
            "run_dir": str(self.run_dir),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": self.command,
            "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs"
            + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"),
            "versions": {p: version(p) for p in ("lightning_nas", "torch", "lightning", "torchvision")},
            "seed": self.seed,
            "stages": self.seconds,
            "seconds": {s["name"]: s["seconds"] for s in self.seconds},
            "seconds_total": round(sum(s["seconds"] for s in self.seconds), 2),
            "proxy_images": proxy.get("proxy_images"),
            "source_images": proxy.get("source_images"),
            "parameters": exported["parameters"],
            "macs": exported["macs"],
            "test_accuracy": self._tested("train"),
            "random_test_accuracy": statistics.mean(randoms) if randoms else None,
            "random_test_accuracy_std": statistics.stdev(randoms) if len(randoms) > 1 else None,
            "random_test_accuracies": randoms,
            "random_parameters": [size(trained_network(path)[1])["parameters"] for path in checkpoints],
            "genotype": architecture["provenance"]["text"],
            "selection_errors": architecture["provenance"]["selection_errors"],
            "export_difference": exported["difference"],
            "peak_memory_mb": round(peak / 1024, 1),
        }
        write_json(self.run_dir / "summary.json", summary)
        write_report(self.run_dir)
        return summary


def table(summary: Mapping[str, Any]) -> str:
    """The summary as a table for the screen."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f} %"

    errors = summary["selection_errors"] or {}
    rows = [
        (f"{s['name']}{' (since resumed)' if s['resumed'] else ''}", f"{s['seconds']:.1f} s") for s in summary["stages"]
    ]
    rows += [
        ("all stages", f"{summary['seconds_total']:.1f} s"),
        ("peak memory", f"{summary['peak_memory_mb']:.0f} MB"),
        ("images searched on", f"{summary['proxy_images'] or 'all'} of {summary['source_images'] or 'all'}"),
        ("parameters", f"{summary['parameters']:,}"),
        ("multiply-accumulates", f"{summary['macs']:,}"),
        ("test accuracy", percent(summary["test_accuracy"])),
        (
            "random architectures",
            f"{percent(summary['random_test_accuracy'])} (mean of {len(summary['random_test_accuracies'])})",
        ),
    ]
    rows += [
        (f"selection errors, {kind}", f"{errors[kind]['errors']} of {errors[kind]['count']}")
        for kind in ("edges", "operations")
        if kind in errors
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value:>22}" for name, value in rows)


def main(args: list[str]) -> None:
    """``lightning-nas pipeline``."""
    config, run_dir, base = parse(args)
    run_dir = run_dir or Path("runs") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--run_dir {run_dir} cannot be made ({error.strerror}). Name another folder.") from None
    summary = Pipeline(config, run_dir.resolve(), base, " ".join(["lightning-nas pipeline", *args])).run()
    print(f"\n{table(summary)}\n\nReport: {run_dir / 'report.html'}    Network: {run_dir / 'network.py'}")
