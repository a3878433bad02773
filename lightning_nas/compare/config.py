"""The configuration of a study: one YAML file, and what the command line changes in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_nas.checks import at_least, greater_than
from lightning_nas.cli.arguments import Parser, suggestion
from lightning_nas.cli.config_files import find_config
from lightning_nas.errors import ConfigError
from lightning_nas.pipeline.config import ADDED, add_imports, merge, pairs, read_yaml, set_key, yaml_value

KEYS = (
    *("seeds", "num_threads", "matmul_precision", "imports", "arguments", "datasets", "data", "trainer", "shared"),
    *("budget", "metric", "truth", "baseline", "columns", "executor", "entries"),
)
"""Keys of a study."""

BUDGETS = ("seconds", "steps", "queries")
"""Keys of a budget."""

_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True)
class Metric:
    """What a run is judged by.

    Attributes:
        name: Name of the metric: a key of a pipeline's ``summary.json``, a logged metric, or a key of the provenance in
            the ``architecture.json`` that a search writes, such as ``reported.accuracy``.
        scale: Factor of the values, such as 100 for percent.
        unit: Unit of the scaled values, such as ``%``.
        lower: Whether lower values are better.
    """

    name: str
    scale: float = 1.0
    unit: str = ""
    lower: bool = False

    @property
    def label(self) -> str:
        """Its name with its unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


TEST_ACCURACY = Metric("test/accuracy", 100.0, "%")
"""The metric of a study that names none."""


@dataclass(frozen=True)
class TruthSettings:
    """Where the true performance of found architectures is looked up.

    Attributes:
        table: Configuration of the table.
        column: Its column with the true performance, in percent for accuracies.
        seen: Column that searches see, by which the best architecture is the one to find; None if there is none.
        constraints: Largest costs, by column, of the architectures that count.
    """

    table: Mapping[str, Any]
    column: str
    seen: str | None
    constraints: Mapping[str, float]


@dataclass(frozen=True)
class Arguments:
    """The command line of ``lightning-nas compare``.

    Attributes:
        config: Configuration of the study, with the changes of the command line.
        name: Name of the study.
        base: Folder of the YAML file, which paths of stage files are relative to.
        output_dir: Folder of all runs and of the results.
        workers: Number of runs at a time.
        print_config: Whether the stages of all runs are printed rather than run.
        given: The arguments as they were given.
        limits: Limits on cost for the whole study, such as ``cifar10_params=q0.5``; see ``limits.limited``.
    """

    config: dict[str, Any]
    name: str
    base: Path
    output_dir: Path
    workers: int
    print_config: bool
    given: list[str]
    limits: list[str] = field(default_factory=list)


def parser() -> Parser:
    """The parser of ``lightning-nas compare``, which does not know the keys of the YAML file."""
    made = Parser(
        prog="lightning-nas compare",
        description="Run methods with several seeds, on one or several data sets, from one YAML file, and compare "
        "them: a table as text, CSV, JSON, Markdown and LaTeX, pictures, and one HTML page. Finished runs are not "
        "repeated, interrupted ones go on. The last line of the output is JSON.",
        epilog="Every key of the YAML file can be given as --key.of.yaml VALUE. --seeds 10 or --seeds [0,3] sets the "
        "seeds, --entries.darts null leaves an entry out, --entries.darts.trainer.max_epochs 5 changes it, and "
        "--table FILE is short for --arguments.table FILE.",
    )
    made.add_argument(
        "--config",
        required=True,
        help="YAML file of the study, or the name of a shipped one, such as compare/digits ('lightning-nas configs "
        "compare' lists them)",
    )
    made.add_argument(
        "--output_dir", type=Path, help="folder of all runs and results (default: runs/compare/NAME_OF_THE_FILE)"
    )
    made.add_argument("--workers", type=int, default=1, help="runs at a time, each in its own process (default: 1)")
    made.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="limit on a column of costs, for all searches and the truth: a value, or a quantile of the table such as "
        "cifar10_params=q0.5; may be given several times",
    )
    made.add_argument("--print_config", action="store_true", help="print the stages of all runs, and stop")
    return made


def parse(args: Sequence[str]) -> Arguments:
    """Read the command line.

    Args:
        args: Arguments after ``lightning-nas compare``.

    Raises:
        ConfigError: A key is unknown, a value is wrong or missing, or the YAML file cannot be used.
    """
    known, rest = parser().parse_known_args(list(args))
    at_least(1, workers=known.workers)
    path = find_config(known.config)
    config = read_yaml(path)
    config["entries"] = _spelled_out(config.get("entries"))
    given = config.get("arguments") or {}
    for key, text in pairs(rest):
        if key == ADDED:
            add_imports(config, yaml_value(key, text))
            continue
        short = key.split(".")[0] in given and key.split(".")[0] not in KEYS
        set_key(config, f"arguments.{key}" if short else key, yaml_value(key, text))
        config["entries"] = _spelled_out(config["entries"])
    _check_keys(config, list(given))
    _check_entries(config)
    _check_values(config)
    name = path.stem
    output_dir = (known.output_dir or Path("runs") / "compare" / name).resolve()
    return Arguments(config, name, path.parent, output_dir, known.workers, known.print_config, list(args), known.limit)


def seeds(config: Mapping[str, Any]) -> list[int]:
    """The seeds of a study.

    Args:
        config: Configuration of the study: ``seeds`` is their number, or their list.
    """
    given = config.get("seeds", 3)
    return list(range(given)) if isinstance(given, int) else list(given)


def datasets(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configuration of a study on each of its data sets, by name; one without a name where it lists none.

    Args:
        config: Configuration of the study: ``datasets`` has changes of it by name, null for one that is left out.
    """
    own = {key: value for key, value in config.items() if key != "datasets"}
    given = config.get("datasets") or {"": {}}
    found = {str(name): merge(own, changes) for name, changes in given.items() if changes is not None}
    return {name: {**each, **_interpolated(each, name)} for name, each in found.items()}


def _interpolated(config: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """What is no part of a run, with its interpolations replaced by what they stand for."""
    keys = ("arguments", "metric", "truth", "executor")
    whole = {"dataset": dataset, "arguments": {}, **{key: config[key] for key in keys if config.get(key) is not None}}
    try:
        found: Any = OmegaConf.to_container(OmegaConf.create(whole), resolve=True)
    except OmegaConfBaseException as error:
        place = getattr(error, "full_key", None) or "An interpolation"
        raise ConfigError(
            f"{place} cannot be resolved: {str(error).splitlines()[0]}. Interpolations of {', '.join(keys)} refer to "
            "${arguments} and ${dataset}."
        ) from None
    return {key: value for key, value in found.items() if key != "dataset"}


def metric(config: Mapping[str, Any]) -> Metric:
    """The metric of a study without truth.

    Args:
        config: Configuration of the study.

    Raises:
        ConfigError: ``metric`` is neither a name nor a mapping of the arguments of ``Metric``.
    """
    given = config.get("metric")
    if given is None:
        return TEST_ACCURACY
    if isinstance(given, str):
        return TEST_ACCURACY if given == TEST_ACCURACY.name else Metric(given)
    try:
        return Metric(**given)
    except TypeError:
        raise ConfigError(
            f"metric is {given!r}; it must be the name of a metric, or a mapping with 'name' and any of 'scale', "
            "'unit' and 'lower', such as {name: test/loss, lower: true}."
        ) from None


def truth(config: Mapping[str, Any]) -> TruthSettings | None:
    """Where the true performance of found architectures is looked up; None where a study has no truth.

    Args:
        config: Configuration of the study.

    Raises:
        ConfigError: ``truth`` lacks something, or a constraint is not a number greater than 0.
    """
    given = config.get("truth")
    if given is None:
        return None
    keys = ("table", "column", "seen", "constraints")
    right = isinstance(given, dict) and isinstance(given.get("table"), dict) and isinstance(given.get("column"), str)
    if not right or set(given) - set(keys):
        raise ConfigError(
            f"truth is {given!r:.300}; it must be a mapping with 'table' (class_path and init_args of a table) and "
            "'column' (that of the true accuracies), and may have 'seen' (the column that searches see) and "
            "'constraints' (largest costs by column)."
        )
    bounds = numbers("truth.constraints", given.get("constraints"))
    return TruthSettings(given["table"], given["column"], given.get("seen"), bounds)


def numbers(place: str, given: Any) -> dict[str, float]:
    """Largest costs by name.

    Args:
        place: Where they are, for the message.
        given: The mapping; None stands for an empty one.

    Raises:
        ConfigError: It is not a mapping to numbers greater than 0.
    """
    try:  # YAML reads 1e6 as text
        bounds = {name: 0.0 if isinstance(each, bool) else float(each) for name, each in dict(given or {}).items()}
    except (TypeError, ValueError):
        bounds = {"": 0.0}
    if not all(bound > 0 for bound in bounds.values()):
        raise ConfigError(
            f"{place} is {given!r:.200}; it must map names of costs to numbers greater than 0, such as "
            "{cifar10_params: 344346}. Quantiles are for the command line: --limit cifar10_params=q0.5."
        )
    return bounds


def _spelled_out(entries: Any) -> dict[str, Any]:
    """Entries as mappings: the name of a file is short for a mapping with ``config``."""
    if not isinstance(entries, dict):
        raise ConfigError(
            f"entries is {entries!r:.100}; it must be a mapping of what is compared, such as darts: "
            "../search/darts.yaml."
        )
    return {str(name): {"config": each} if isinstance(each, str | list) else each for name, each in entries.items()}


def _check_keys(config: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Refuse keys that a study does not have."""
    unknown = [str(key) for key in config if key not in KEYS]
    if unknown:
        options = ["config", "output_dir", "workers", "limit", "print_config"]
        right = suggestion(unknown[0], [*KEYS, *arguments, *options])
        raise ConfigError(f"Unknown keys {unknown} in the configuration of the study. {right}")


def _check_entries(config: dict[str, Any]) -> None:
    """Refuse entries that are no runs, and drop those that are null."""
    entries = {name: entry for name, entry in config["entries"].items() if entry is not None}
    if not entries:
        raise ConfigError("The study has no entries left. Give it at least one.")
    for name, entry in entries.items():
        kinds = [key for key in ("pipeline", "config", "stages") if isinstance(entry, dict) and key in entry]
        kinds = kinds[:1] if set(kinds) == {"pipeline", "stages"} else kinds  # a pipeline with changes of its stages
        if not isinstance(entry, dict) or len(kinds) > 1 or not (kinds or "model" in entry):
            raise ConfigError(
                f"entries.{name} is {entry!r:.200}; it must have one of 'config' (a stage file, or a list of files and "
                "changes), 'stages' (a chain of stages) and 'pipeline' (the file of a pipeline), with changes beside "
                "it."
            )
        if len(kinds) and kinds[0] != "config" and "budget" in entry:
            raise ConfigError(
                f"entries.{name} has a budget and several stages. Give it to one of them: trainer.max_time or "
                "trainer.max_steps, or model.init_args.budget for queries."
            )
    for name in [*entries, *(config.get("datasets") or {})]:
        if not _NAME.fullmatch(str(name)):
            raise ConfigError(
                f"{name!r:.100} is no name for an entry or a data set, which names a folder. Use letters, digits, '_', "
                "'-', '.' and '+'."
            )
    config["entries"] = entries


def _check_values(config: dict[str, Any]) -> None:
    """Refuse values of wrong types."""
    for key in ("arguments", "datasets", "data", "trainer", "shared", "budget"):
        if not isinstance(config.get(key), dict | None):
            raise ConfigError(f"{key} is {config[key]!r:.100}; it must be a mapping.")
    changes = (config.get("datasets") or {"": {}}).values()
    if not all(isinstance(each, dict | None) for each in changes) or all(each is None for each in changes):
        raise ConfigError(
            f"datasets is {config['datasets']!r:.200}; it must map the names of data sets to changes of the study, "
            "{} for none, and null for a data set that is left out. At least one must be left."
        )
    given = config.get("seeds", 3)
    numbers = given if isinstance(given, list) else [given]
    right = numbers and all(type(each) is int for each in numbers) and len(set(numbers)) == len(numbers)
    if not right or min(numbers) < (0 if isinstance(given, list) else 1):
        raise ConfigError(
            f"seeds is {given!r:.100}; it must be their number, at least 1, or a list of different seeds."
        )
    imports = config.setdefault("imports", [])
    if not isinstance(imports, str | list) or not all(isinstance(name, str) for name in imports):
        raise ConfigError(f"imports is {imports!r:.100}; it must be the name of a module, or a list of names.")
    baseline = config.get("baseline")
    if baseline is not None and baseline not in config["entries"]:
        meant = suggestion(str(baseline), config["entries"])
        raise ConfigError(f"baseline is {baseline!r:.100}, which is no entry of the study. {meant}")
    columns = config.setdefault("columns", [])
    if not isinstance(columns, list) or not all(isinstance(each, str) for each in columns):
        raise ConfigError(f"columns is {columns!r:.100}; it must be a list of names of metrics.")
    for each in datasets(config).values():
        metric(each)
        truth(each)
        for entry in each["entries"].values():
            _check_budget(entry.get("budget") or each.get("budget") or {})


def _check_budget(budget: Any) -> None:
    """Refuse budgets that are not positive integers, or of another kind."""
    if not isinstance(budget, dict) or set(budget) - set(BUDGETS):
        raise ConfigError(f"budget is {budget!r:.100}; it may have {', '.join(BUDGETS)}, such as {{queries: 150}}.")
    for name, value in budget.items():
        if type(value) is not int:
            raise ConfigError(f"budget.{name} is {value!r:.100}; it must be a positive integer.")
        greater_than(0, **{f"budget.{name}": value})
