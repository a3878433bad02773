"""The configuration of a pipeline: one YAML, and what the command line changes in it."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_nas.errors import ConfigError

STAGES = ("distill", "fidelity", "search", "refine", "train", "export")
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


# PyYAML lets errors of what reads numbers, dates and tags pass
_NO_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, IndexError, RecursionError)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: The file is missing, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except _NO_YAML as error:
        raise ConfigError(f"{path} is no valid YAML: {str(error):.500}. Correct it there.") from None
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
        description="One YAML from images to a found network: distill, check the proxy, search, refine, train, test, "
        "export.",
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
        except _NO_YAML:
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
    if wrong:
        raise ConfigError(f"stages.{wrong[0]} is {stages[wrong[0]]!r}; it must be a path or a mapping.")
    _check_export(stages.get("export") or {})
    for key in ("seed_everything", "random_architectures"):
        value = config.get(key, 0)
        if type(value) is not int or value < 0:
            raise ConfigError(f"{key} is {value!r}; it must be an integer of at least 0.")
    if not isinstance(config.get("trainer") or {}, dict):
        raise ConfigError(f"trainer is {config['trainer']!r}; it must be a mapping.")


def _check_export(given: Any) -> None:
    formats, licence = (given.get("formats"), given.get("licence", "")) if isinstance(given, dict) else (0, 0)
    names = isinstance(formats, list | None) and all(isinstance(name, str) for name in formats or ())
    if not names or not isinstance(licence, str) or set(given) - {"formats", "licence"}:
        raise ConfigError(
            f"stages.export is {given!r}; it may have 'formats', a list such as [py, pt2, onnx], and 'licence', a text."
        )
