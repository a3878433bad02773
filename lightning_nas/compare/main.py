"""``lightning-nas compare``: run a study, and write what came of it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lightning_nas.cli.interruption import interruptible
from lightning_nas.cli.lightning import build
from lightning_nas.compare import table
from lightning_nas.compare.config import Arguments, Metric, datasets, metric, truth
from lightning_nas.compare.execution import check, check_failures, execute_all
from lightning_nas.compare.figures import by_entry, draw_curves, draw_points
from lightning_nas.compare.limits import check_kept, limited
from lightning_nas.compare.page import page, record
from lightning_nas.compare.results import Result, Truth, collect
from lightning_nas.compare.runs import Run, runs
from lightning_nas.compare.table import Row
from lightning_nas.compare.wandb_group import log_table, logger_of
from lightning_nas.errors import ConfigError, InterruptedTrainingError
from lightning_nas.evaluation.executors import Executor, Processes, Serial
from lightning_nas.files.artifacts import remove_leftovers, write_bytes, write_json
from lightning_nas.files.classes import import_modules
from lightning_nas.files.locks import lock
from lightning_nas.report.figures import png
from lightning_nas.terminal import tell


@dataclass(frozen=True)
class Study:
    """A study before its runs: what they are, and how they will be judged.

    Attributes:
        arguments: The command line.
        runs: All runs.
        metric: What runs are judged by.
        truths: The true performance by data set; None where a run is judged by the metric.
    """

    arguments: Arguments
    runs: list[Run]
    metric: Metric
    truths: Mapping[str, Truth | None]

    @property
    def baseline(self) -> str | None:
        """Entry that all others are compared with."""
        found: str | None = self.arguments.config.get("baseline")
        return found

    @classmethod
    def open(cls, arguments: Arguments) -> "Study":
        """Prepare a study.

        Args:
            arguments: The command line.

        Raises:
            ConfigError: The configuration cannot work.
            DataError: A table with the truth cannot be used.
        """
        import_modules(arguments.config["imports"])
        arguments = replace(arguments, config=limited(arguments.config, arguments.limits))
        settings = {name: truth(config) for name, config in datasets(arguments.config).items()}
        truths = {name: None if each is None else Truth(each) for name, each in settings.items()}
        known = [each.settings.column for each in truths.values() if each is not None]
        if known and len(known) < len(truths):
            raise ConfigError("Some data sets of the study have a truth, and others don't. Give it to all or to none.")
        judged = metric(next(iter(datasets(arguments.config).values())))
        if known:
            judged = Metric(known[0] if len(set(known)) == 1 else "true performance", unit=judged.unit)
        every = runs(arguments)
        check_kept(every, arguments.config, arguments.limits)
        return cls(arguments, every, judged, truths)

    def collect(self) -> list[Result]:
        """Read the results of all runs that are finished.

        Raises:
            ArtifactError: A file of a run is damaged.
            ConfigError: A run has nothing to be judged by, or no run has one of the further metrics.
        """
        columns = self.arguments.config["columns"]
        finished = [run for run in self.runs if run.pipeline().finished]
        found = [collect(run, self.metric, self.truths[run.dataset], columns) for run in finished]
        missing = [name for name in columns if found and all(each.columns[name] is None for each in found)]
        if missing:
            raise ConfigError(
                f"No run has {', '.join(missing)}, which columns names. Leave it out, or correct its name."
            )
        return found


def main(arguments: Arguments) -> None:
    """``lightning-nas compare``.

    Args:
        arguments: Its command line.

    Raises:
        ConfigError: The configuration is wrong, or some runs have failed.
        InterruptedTrainingError: SIGTERM has stopped the study.
    """
    study = Study.open(arguments)
    if arguments.print_config:
        stages = {str(run): {stage.name: stage.config for stage in run.pipeline().stages} for run in study.runs}
        print(yaml.safe_dump(stages, sort_keys=False), end="")
        return
    with lock(arguments.output_dir, ".compare.lock"), interruptible("the study"):
        remove_leftovers(arguments.output_dir)
        try:
            executor = _executor(arguments)
            tell(f"Checking configurations, data and folders of {len(study.runs)} runs in {arguments.output_dir}")
            left = check(study.runs)
            print(f"{len(study.runs)} runs, {len(study.runs) - len(left)} of them finished before", flush=True)
            failures = execute_all(left, executor) if left else []
        except InterruptedTrainingError as error:
            error.resume = ["compare", *arguments.given]
            raise
        results = study.collect()
        if results:
            print(json.dumps(write(study, results)))
    check_failures(failures, len(study.runs))


def _executor(arguments: Arguments) -> Executor:
    """Where the runs are executed.

    Raises:
        ConfigError: Runs would share the state of one process.
    """
    given = next(iter(datasets(arguments.config).values())).get("executor")
    if given is not None:
        found: Executor = build(Executor, given)
        if found.shares_generator:
            raise ConfigError(
                f"The executor is {type(found).__name__}, whose runs would share random numbers and what they print. "
                "Use Processes or RayWorkers."
            )
        return found
    return Serial() if arguments.workers == 1 else Processes(arguments.workers)


def write(study: Study, results: Sequence[Result]) -> dict[str, Any]:
    """Write and print the results of a study.

    Args:
        study: The study.
        results: Its results.

    Returns:
        All figures, for the last line of the output.
    """
    folder = study.arguments.output_dir
    found = table.rows(results, study.baseline, study.metric.lower)
    lines = table.cells(found, study.metric, study.baseline)
    sources = [f"{each.settings.column} of {each.table.path.name}" for each in study.truths.values() if each]
    notes = table.notes(study.metric, study.baseline, found, ", ".join(dict.fromkeys(sources)))
    flat = [row.flat() for row in found]
    line = {
        "study": study.arguments.name,
        "metric": study.metric.name,
        "baseline": study.baseline,
        "runs": len(results),
        "missing": len(study.runs) - len(results),
        "entries": flat,
        "output_dir": str(folder),
    }
    content = {**line, "command": shlex.join(["lightning-nas", "compare", *study.arguments.given]), "notes": notes}
    plain = "\n".join([table.text(lines), "", *notes])
    files = {
        "table.txt": f"{plain}\n",
        "table.md": "\n".join([table.markdown(lines), "", *notes, ""]),
        "table.tex": f"{table.latex(lines)}\n",
        "table.csv": table.as_csv(flat),
        "runs.csv": table.as_csv([record(each) for each in results]),
        "report.html": page(content, found, results, study.metric),
    }
    for name, text in files.items():
        write_bytes(folder / name, text.encode())
    write_json(folder / "compare.json", {**content, "results": _records(results)})
    pictures = _write_pictures(folder, found, results, study.metric)
    print(f"\n{plain}\n\n{folder}: {', '.join([*files, 'compare.json', *pictures])}", flush=True)
    logger = logger_of(study.runs)
    if logger is not None:
        log_table(logger, study.arguments.name, lines, [folder / name for name in pictures])
    return line


def _write_pictures(folder: Path, rows: Sequence[Row], results: Sequence[Result], judged: Metric) -> list[str]:
    """Write the pictures of every data set as PNG files, and return their names."""
    written = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        end = f"_{dataset}" if dataset else ""
        figures = {f"points{end}.png": draw_points([row for row in rows if row.dataset == dataset], judged)}
        curves = by_entry([each for each in results if each.run.dataset == dataset])
        if curves:
            figures[f"curves{end}.png"] = draw_curves(curves, judged.label)
        for name, figure in figures.items():
            write_bytes(folder / name, png(figure, 160))
            written.append(name)
    return written


def _records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Results as JSON, with the curves of queries."""
    return [{**record(each), **({"curve": list(each.curve)} if each.curve else {})} for each in results]
