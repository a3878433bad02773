"""The configuration of a pipeline: one YAML file, and what the command line changes in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_nas.checks import greater_than
from lightning_nas.cli.arguments import Parser, suggestion
from lightning_nas.cli.config_files import find_config
from lightning_nas.errors import ConfigError

KEYS = (
    *("seed_everything", "num_threads", "matmul_precision", "workers", "imports", "data", "trainer", "constraints"),
    "stages",
)
"""Keys of a pipeline's configuration."""

OPTIONS = ("config", "run_dir", "print_config")
"""Options of the command line that are no keys."""

ADDED = "imports+"
"""Option that adds to the list of modules, where other options replace what the YAML file says."""

EXPORT = "export"
"""The one entry of ``stages`` that is not a fit: formats and licence of the exported network."""

_NO_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError, IndexError, RecursionError)
"""What PyYAML raises for invalid text; it lets errors of its readers of numbers, dates and tags pass."""


@dataclass(frozen=True)
class Arguments:
    """The command line of ``lightning-nas pipeline``.

    Attributes:
        config: Configuration of the pipeline, with the changes of the command line.
        base: Folder of the YAML file, which paths of stage files are relative to.
        run_dir: Run folder, if one was given.
        print_config: Whether the stages are printed rather than run.
        given: The arguments as they were given.
    """

    config: dict[str, Any]
    base: Path
    run_dir: Path | None
    print_config: bool
    given: list[str]


def parser() -> Parser:
    """The parser of ``lightning-nas pipeline``, which does not know the keys of the YAML file."""
    made = Parser(
        prog="lightning-nas pipeline",
        description="Run a chain of stages from one YAML file: for example distill, check the proxy, search, train, "
        "test and export.",
        epilog="Every key of the YAML file can be given as --key.of.yaml VALUE. --stages.distill other.yaml takes "
        "another stage file, --stages.search.trainer.max_epochs 5 changes one of its values, --stages.fidelity null "
        "leaves the stage out, --data.root DIR sets an argument of the data, and --constraints.parameters 100000 "
        "limits the found network.",
    )
    made.add_argument(
        "--config",
        required=True,
        help="YAML file of the pipeline, or the name of a shipped one, such as pipeline/digits ('lightning-nas configs "
        "pipeline' lists them)",
    )
    made.add_argument(
        "--run_dir", type=Path, help="folder of the run (default: runs/DATE_TIME); an unfinished run there is continued"
    )
    made.add_argument(
        "--print_config", action="store_true", help="print the resolved configuration of every stage, and stop"
    )
    return made


def parse(args: Sequence[str]) -> Arguments:
    """Read the command line.

    Args:
        args: Arguments after ``lightning-nas pipeline``.

    Raises:
        ConfigError: A key is unknown, a value is missing, or the YAML file cannot be used.
    """
    known, rest = parser().parse_known_args(list(args))
    path = find_config(known.config)
    config = read_yaml(path)
    _check_stages(config, path)
    for key, value in pairs(rest):
        content = yaml_value(key, value)
        if key == ADDED:
            add_imports(config, content)
            continue
        stage = key.removeprefix("stages.").split(".")[0]
        if key.startswith("stages.") and stage not in (*config["stages"], EXPORT):
            raise ConfigError(f"--{key}: {path} has no stage {stage!r}; it has {', '.join(config['stages'])}.")
        if re.fullmatch(r"stages\.[^.]+(\.config)?", key) and isinstance(content, str) and Path(content).is_file():
            content = str(Path(content).resolve())  # what is given here is relative to the working directory
        set_key(config, key, content)
    _check_stages(config, path)
    _check_values(config, path)
    return Arguments(config, path.parent, known.run_dir, known.print_config, list(args))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: The file.

    Raises:
        ConfigError: The file is missing, is not valid YAML, or holds something else.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). Check the path.") from None
    except _NO_YAML as error:
        raise ConfigError(f"{path} is not valid YAML: {str(error):.500}. Correct it there.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys; it holds {type(content).__name__}.")
    return content


def merge(base: Any, over: Any) -> Any:
    """Lay one configuration on top of another, mapping by mapping.

    Lists and single values are replaced. A mapping with another ``class_path`` starts from its own arguments alone,
    since those of the class before mean something else, and so does a mapping with ``extends``.

    Args:
        base: The lower configuration.
        over: The upper one, which wins.
    """
    if not isinstance(over, Mapping):
        return over
    if isinstance(base, str) and set(over) == {"init_args"}:
        base = spell_out(base)
    if not isinstance(base, Mapping) or "extends" in over:
        return dict(over)
    if "class_path" in over and over["class_path"] != base.get("class_path"):
        return dict(over)
    return {**base, **{key: merge(base[key], value) if key in base else value for key, value in over.items()}}


def spell_out(text: str) -> dict[str, str]:
    """Write a text as the mapping that it is short for, so that arguments can be added.

    Args:
        text: An interpolation such as ``${data}``, or the name of a class.
    """
    return {"extends" if text.startswith("${") else "class_path": text}


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    """Set one key of a pipeline's configuration, in place.

    Args:
        config: Configuration of the pipeline.
        key: Dotted path of the key. A text on the way becomes the mapping that it is short for.
        value: Its value. A text in the place of a stage names another stage file; the stage's other keys stay.

    Raises:
        ConfigError: The path leads through a value that is not a mapping.
    """
    *path, last = key.split(".")
    if path == ["stages"] and isinstance(value, str):
        path, last = ["stages", last], "config"
    for depth, part in enumerate(path):
        inner = config.get(part)
        if isinstance(inner, str):
            inner = {"config": inner} if path[0] == "stages" and depth == 1 else spell_out(inner)
        if not isinstance(inner, dict | None):
            raise ConfigError(f"--{key} is below {part}, which is {inner!r} and not a mapping.")
        config[part] = dict(inner or {})
        config = config[part]
    config[last] = value


def add_imports(config: dict[str, Any], modules: Any) -> None:
    """Add modules to those that a configuration imports, in place.

    Args:
        config: The configuration.
        modules: Name of a module, or a list of names.
    """
    listed = [given if isinstance(given, list) else [given] for given in (config.get("imports") or [], modules)]
    config["imports"] = list(dict.fromkeys(listed[0] + listed[1]))


def pairs(rest: Sequence[str]) -> list[tuple[str, str]]:
    """Read ``--key value`` and ``--key=value``.

    Args:
        rest: The arguments.

    Returns:
        Keys, without dashes, and values.

    Raises:
        ConfigError: A value is missing.
    """
    parts = [part for item in rest for part in (item.split("=", 1) if item.startswith("--") else [item])]
    if len(parts) % 2 or not all(key.startswith("--") for key in parts[::2]):
        raise ConfigError(f"The arguments {' '.join(rest)} are not pairs of --key VALUE.")
    return [(key.removeprefix("--"), value) for key, value in zip(parts[::2], parts[1::2], strict=True)]


def yaml_value(key: str, text: str) -> Any:
    """Read the value of an option.

    Args:
        key: The option without dashes, for the message.
        text: Its value as YAML.

    Raises:
        ConfigError: It is not valid YAML.
    """
    try:
        return yaml.safe_load(text)
    except _NO_YAML:
        raise ConfigError(f"--{key} {text} is not a valid YAML value.") from None


def _check_stages(config: dict[str, Any], path: Path) -> None:
    """Refuse a configuration whose keys or stages are not what they must be."""
    unknown = [key for key in config if key not in KEYS]
    if unknown:
        right = suggestion(str(unknown[0]), [*KEYS, *OPTIONS])
        raise ConfigError(f"Unknown keys {unknown} in the configuration of the pipeline. {right}")
    stages = config.get("stages")
    if not isinstance(stages, dict) or not isinstance(config.get("data"), dict):
        raise ConfigError(
            f"{path} needs the mappings 'data' (class_path and init_args of the images) and 'stages' (every stage by "
            "its name)."
        )
    for name, stage in stages.items():
        if not isinstance(stage, str | dict | None):
            raise ConfigError(f"stages.{name} is {stage!r}; it must be the path of a stage file or a mapping.")


def _check_values(config: dict[str, Any], path: Path) -> None:
    """Refuse values of a wrong type, and move arguments of the data below ``init_args``."""
    seed = config.setdefault("seed_everything", 0)
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"seed_everything is {seed!r}; it must be an integer of at least 0.")
    workers = config.setdefault("workers", 1)
    if type(workers) is not int or workers < 1:
        raise ConfigError(f"workers is {workers!r}; it must be an integer of at least 1.")
    if not isinstance(config.get("trainer"), dict | None):
        raise ConfigError(f"trainer is {config['trainer']!r}; it must be a mapping.")
    imports = config.setdefault("imports", [])
    if not isinstance(imports, str | list) or not all(isinstance(name, str) for name in imports):
        raise ConfigError(f"imports is {imports!r}; it must be the name of a module, or a list of names.")
    config["constraints"] = _constraints(config.get("constraints") or {})
    data = config["data"]
    if not isinstance(data.get("class_path"), str) or not isinstance(data.get("init_args"), dict | None):
        raise ConfigError(f"data in {path} needs a class_path, such as DigitsDataModule, and a mapping init_args.")
    short = {key: data.pop(key) for key in list(data) if key not in ("class_path", "init_args")}
    data["init_args"] = {**(data.get("init_args") or {}), **short}  # --data.root is short for --data.init_args.root
    given = config["stages"].get(EXPORT) or {}
    settings = given if isinstance(given, dict) else {"": given}
    formats, licence, raw = settings.get("formats"), settings.get("licence", ""), settings.get("raw_images", True)
    names = isinstance(formats, list | None) and all(isinstance(name, str) for name in formats or ())
    known = not set(settings) - {"formats", "licence", "raw_images"}
    if not names or not isinstance(licence, str) or not isinstance(raw, bool) or not known:
        raise ConfigError(
            f"stages.{EXPORT} is {given!r}; it may have 'formats', a list such as [py, pt2, onnx, onnx_int8], "
            "'licence', a text, and 'raw_images', true or false."
        )


def _constraints(given: Any) -> dict[str, float]:
    """Check limits on the costs of the found network. YAML reads numbers such as 5e6 as texts."""
    if not isinstance(given, dict):
        raise ConfigError(f"constraints is {given!r}; it must be a mapping such as {{parameters: 100000}}.")
    found = {}
    for name, bound in given.items():
        try:
            found[name] = float(bound)
        except (TypeError, ValueError):
            raise ConfigError(f"constraints.{name} is {bound!r}; it must be a number greater than 0.") from None
        greater_than(0, **{f"constraints.{name}": found[name]})
    return found
